"""What the network is told: numbers, latents and embedding, and how training hides the image."""

from __future__ import annotations

import torch

from stillmotion.conditioning import Condition, drop_conditions, embed_image, image_latents, micro_conditions
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import clip_pixels


def test_the_network_is_told_the_frame_rate_less_one() -> None:
    numbers = micro_conditions(7.0, 127.0, 0.02, batch=2)
    assert torch.equal(numbers, torch.tensor([[6.0, 127.0, 0.02]] * 2))
    each = micro_conditions(torch.tensor([3.0, 9.0]), 40.0, torch.tensor([0.1, 0.2]), batch=2)
    assert torch.equal(each, torch.tensor([[2.0, 40.0, 0.1], [8.0, 40.0, 0.2]]))


def test_a_given_rate_is_not_changed_in_place() -> None:
    fps = torch.tensor([3.0, 9.0])
    micro_conditions(fps, 1.0, 0.0, batch=2)
    assert fps.tolist() == [3.0, 9.0]


def test_unconditional_hides_the_image_and_keeps_the_numbers() -> None:
    condition = Condition(torch.ones(2, 1, 3), torch.ones(2, 1, 4, 2, 2), torch.ones(2, 3))
    nothing = condition.unconditional()
    assert not nothing.context.any() and not nothing.image_latents.any()
    assert torch.equal(nothing.numbers, condition.numbers)
    assert nothing.context.shape == condition.context.shape
    assert nothing.image_latents.shape == condition.image_latents.shape


def test_the_image_latents_stand_behind_the_noisy_ones_on_every_frame() -> None:
    condition = Condition(torch.zeros(2, 1, 3), torch.randn(2, 1, 4, 2, 5), torch.ones(2, 3))
    noisy = torch.randn(2, 3, 4, 2, 5)
    beside = condition.beside(noisy)
    assert torch.equal(beside[:, :, :4], noisy)
    for frame in range(3):
        assert torch.equal(beside[:, frame, 4:], condition.image_latents[:, 0])


def test_moving_keeps_the_numbers_in_float32() -> None:
    moved = Condition(torch.zeros(1, 1, 3), torch.zeros(1, 1, 4, 2, 2), torch.tensor([[6.0, 127.0, 0.02]]))
    moved = moved.to(torch.device("cpu"), torch.bfloat16)
    assert moved.context.dtype == moved.image_latents.dtype == torch.bfloat16
    assert moved.numbers.dtype == torch.float32 and moved.numbers[0, 2] == torch.tensor(0.02)


def test_noise_is_added_to_the_pixels_before_the_encoder_and_the_mean_is_unscaled(tiny_components: Components) -> None:
    autoencoder = tiny_components.autoencoder
    images, noise = torch.rand(2, 3, 8, 12) * 2 - 1, torch.randn(2, 3, 8, 12)
    found = image_latents(autoencoder, images, torch.tensor([0.5, 0.25]), noise)
    strength = torch.tensor([0.5, 0.25]).reshape(2, 1, 1, 1)
    moments = autoencoder.quant_conv(autoencoder.encoder((images + strength * noise)[:, None])[:, 0])
    torch.testing.assert_close(found[:, 0], moments[:, :4])
    assert found.shape == (2, 1, 4, 4, 6)
    clean = image_latents(autoencoder, images, 0.0, noise)
    assert torch.equal(clean, autoencoder.encode(images[:, None]).mean)
    assert (found - clean).abs().max() > 1e-2


def test_the_embedding_is_one_token_of_the_clean_image(tiny_components: Components) -> None:
    images = torch.rand(2, 3, 20, 30) * 2 - 1
    token = embed_image(tiny_components.image_encoder, images)
    assert token.shape == (2, 1, 24)
    assert torch.equal(token[:, 0], tiny_components.image_encoder(clip_pixels(images)).image_embeds)
    torch.testing.assert_close(embed_image(tiny_components.image_encoder, images[1:])[0], token[1])


def test_dropout_hides_the_embedding_the_latents_or_both_each_at_its_own_draws() -> None:
    draws = torch.tensor([0.0, 0.099, 0.1, 0.199, 0.2, 0.299, 0.3, 0.999])
    condition = Condition(torch.ones(8, 1, 2), torch.ones(8, 1, 4, 1, 1), torch.ones(8, 3))
    dropped = drop_conditions(condition, draws, 0.1)
    assert dropped.context[:, 0, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert dropped.image_latents[:, 0, 0, 0, 0].tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert torch.equal(dropped.numbers, condition.numbers)
    assert condition.context.all()


def test_dropout_frequencies_over_many_samples() -> None:
    count, probability = 20_000, 0.15
    draws = torch.rand(count, generator=torch.Generator().manual_seed(3))
    condition = Condition(torch.ones(count, 1, 1), torch.ones(count, 1, 1, 1, 1), torch.ones(count, 3))
    dropped = drop_conditions(condition, draws, probability)
    context, latents = dropped.context.flatten() == 0, dropped.image_latents.flatten() == 0
    tolerance = 4 * (probability / count) ** 0.5
    for hidden in (context & ~latents, latents & ~context, context & latents):
        assert abs(hidden.float().mean().item() - probability) < tolerance
    untouched = drop_conditions(condition, draws, 0.0)
    assert untouched.context.all() and untouched.image_latents.all()
