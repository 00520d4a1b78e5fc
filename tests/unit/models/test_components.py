"""The networks of a model, by name."""

from __future__ import annotations

from stillmotion.models.components import Components


def test_networks_come_in_the_order_of_their_use_and_absent_ones_are_left_out(tiny_components: Components) -> None:
    found = tiny_components.networks()
    assert list(found) == ["image_encoder", "autoencoder", "unet", "image_decoder"]
    assert found["unet"] is tiny_components.unet
    tiny_components.image_decoder = None
    assert list(tiny_components.networks()) == ["image_encoder", "autoencoder", "unet"]
