"""The camera's algebra, against moving points by hand."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from stillmotion.evaluation.camera import Camera, fit_camera

pytestmark = pytest.mark.slow  # the whole file takes many seconds


def test_the_flow_is_where_points_go() -> None:
    camera = Camera(shift=3 - 1j, factor=cmath.rect(1.1, math.radians(5)))
    place = complex(7 - 9.5, 4 - 7.5)  # pixel x 7, y 4 of a 20x16 frame, from its middle
    moved = camera.factor * place + camera.shift - place
    assert camera.flow(16, 20)[4, 7] == pytest.approx((moved.real, moved.imag), rel=1e-4)
    assert (camera.zoom, camera.roll) == pytest.approx((math.log(1.1), math.radians(5)))


def test_the_inverse_leads_back() -> None:
    camera = Camera(shift=3 - 1j, factor=cmath.rect(1.1, 0.2))
    there = camera.factor * (5 + 2j) + camera.shift
    back = camera.inverse()
    assert back.factor * there + back.shift == pytest.approx(5 + 2j)


def test_the_fit_backwards_is_the_inverse() -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 255, (12, 16)).astype(np.float32)
    canvas = np.kron(coarse, np.ones((8, 8))).astype(np.uint8)
    first, second = canvas[8:72, 8:104], canvas[10:74, 5:101]
    forth, back = fit_camera(first, second), fit_camera(second, first).inverse()
    assert forth.shift == pytest.approx(3 - 2j, abs=0.02)
    assert back.shift == pytest.approx(forth.shift, abs=0.01)


def test_a_change_of_brightness_is_no_motion() -> None:
    picture = np.random.default_rng(2).integers(40, 200, (10, 14)).astype(np.uint8).repeat(6, 0).repeat(6, 1)
    camera = fit_camera(picture, picture + 12)
    assert abs(camera.shift) < 0.01 and abs(camera.factor - 1) < 1e-4
