"""Draws the picture of an identity with a pose and a mouth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from livetalk_core.talker import cat, robot
from livetalk_core.talker.backdrop import draw_backdrop
from livetalk_core.talker.body import AXIS, draw_clothes, draw_neck
from livetalk_core.talker.brush import moved, skia
from livetalk_core.talker.eyes import draw_brow, draw_eye, eye_x
from livetalk_core.talker.hair import COVERED, draw_back_hair, draw_front_hair
from livetalk_core.talker.headwear import draw_beanie, draw_glasses, draw_scarf, draw_scarf_back
from livetalk_core.talker.identity import Identity, Mouth, Pose
from livetalk_core.talker.mouth import draw_mouth, jaw_drop
from livetalk_core.talker.skin import CHIN_Y, MOUTH_Y, draw_beard, draw_ear, draw_nose, draw_philtrum, draw_skin

UNITS = 512.0
HEAD_Y = 230.0
"""y of the line through the eyes in a straight pose."""
ZOOM_AT = (256.0, 268.0)
"""The fixed point of the zoom."""
NECK_PIVOT_Y = 150.0
YAW, PITCH = 15.0, 10.0
"""Shift of a feature at depth 1 when the head turns fully, design units."""


def draw(identity: Identity, pose: Pose, mouth: Mouth, size: int) -> np.ndarray:
    """The picture, uint8 [size, size, 3]. ValueError for a size outside 16 to 4096."""
    if not 16 <= size <= 4096:
        raise ValueError(f"size={size} must be 16 to 4096 pixels; 128 suits training, 1024 a portrait")
    pixels_HWC = np.empty((size, size, 4), np.uint8)
    surface = skia.Surface(pixels_HWC, colorType=skia.kRGBA_8888_ColorType)
    canvas = surface.getCanvas()
    canvas.drawImage(still_backdrop(identity, size), 0, 0)
    canvas.scale(size / UNITS, size / UNITS)
    canvas.translate(*ZOOM_AT)
    canvas.scale(identity.zoom, identity.zoom)
    canvas.translate(-ZOOM_AT[0], -ZOOM_AT[1])
    SITTERS[identity.style](canvas, identity, pose, mouth)
    surface.flushAndSubmit()
    return pixels_HWC[:, :, :3].copy()


@lru_cache(maxsize=4)
def still_backdrop(identity: Identity, size: int) -> skia.Image:
    surface = skia.Surface(size, size)
    surface.getCanvas().scale(size / UNITS, size / UNITS)
    draw_backdrop(surface.getCanvas(), identity)
    return surface.makeImageSnapshot()


@lru_cache(maxsize=64)
def still(painter: Callable[..., None], identity: Identity, *more: int) -> skia.Picture:
    """A drawing function's output, recorded once per identity and replayed in each frame."""
    recorder = skia.PictureRecorder()
    painter(recorder.beginRecording(skia.Rect.MakeLTRB(-600, -600, 1100, 1100)), identity, *more)
    return recorder.finishRecordingAsPicture()


def enter_head(canvas: skia.Canvas, pose: Pose) -> None:
    """Move the canvas's origin to the middle between the eyes; roll rotates around the neck."""
    canvas.translate(AXIS + pose.x * UNITS, HEAD_Y + NECK_PIVOT_Y + pose.y * UNITS)
    canvas.rotate(float(np.degrees(pose.roll)))
    canvas.scale(pose.scale, pose.scale)
    canvas.translate(0, -NECK_PIVOT_Y)


def parallax(pose: Pose, depth: float) -> tuple[float, float]:
    """The shift of a feature at this depth (1 is nearest to the viewer) when the head turns."""
    return YAW * depth * pose.yaw, PITCH * depth * pose.pitch


def draw_human(canvas: skia.Canvas, identity: Identity, pose: Pose, mouth: Mouth) -> None:
    drop = jaw_drop(mouth)
    canvas.save()
    enter_head(canvas, pose)
    with moved(canvas, *parallax(pose, -0.5)):
        canvas.drawPicture(still(draw_scarf_back if identity.hair_style == "scarf" else draw_back_hair, identity))
    canvas.restore()
    draw_neck(canvas, identity, pose.x * UNITS * 0.7 - pose.roll * 40, HEAD_Y + CHIN_Y + drop + pose.y * UNITS)
    canvas.drawPicture(still(draw_clothes, identity))
    canvas.save()
    enter_head(canvas, pose)
    if identity.hair_style not in COVERED:
        for side in (-1, 1):
            with moved(canvas, *parallax(pose, -0.35)):
                canvas.drawPicture(still(draw_ear, identity, side))
    draw_skin(canvas, identity, drop)
    draw_features(canvas, identity, pose, mouth, drop)
    draw_top(canvas, identity, pose, drop)
    canvas.restore()


def draw_features(canvas: skia.Canvas, identity: Identity, pose: Pose, mouth: Mouth, drop: float) -> None:
    with moved(canvas, *parallax(pose, 0.35)):
        draw_beard(canvas, identity, drop)
    with moved(canvas, *parallax(pose, 0.75)):
        for side in (-1, 1):
            near = 1 - 0.07 * side * pose.yaw
            canvas.save()
            canvas.translate(side * eye_x(identity), 0)
            canvas.scale(near, 1)
            draw_eye(canvas, identity, pose, side)
            draw_brow(canvas, identity, pose, side)
            canvas.restore()
    with moved(canvas, *parallax(pose, 0.8)):
        canvas.drawPicture(still(draw_philtrum, identity))
        with moved(canvas, 0, MOUTH_Y):
            draw_mouth(canvas, identity, mouth, pose)
    with moved(canvas, *parallax(pose, 1.2)):
        canvas.drawPicture(still(draw_nose, identity))


def draw_top(canvas: skia.Canvas, identity: Identity, pose: Pose, drop: float) -> None:
    """Glasses, then hair, cap or scarf."""
    with moved(canvas, *parallax(pose, 0.85)):
        canvas.drawPicture(still(draw_glasses, identity))
    with moved(canvas, *parallax(pose, 0.2)):
        if identity.hair_style == "scarf":
            draw_scarf(canvas, identity, drop)
        elif identity.hair_style == "beanie":
            canvas.drawPicture(still(draw_beanie, identity))
        else:
            canvas.drawPicture(still(draw_front_hair, identity))


def draw_cat(canvas: skia.Canvas, identity: Identity, pose: Pose, mouth: Mouth) -> None:
    drop = jaw_drop(mouth)
    draw_neck(canvas, identity, pose.x * UNITS * 0.7 - pose.roll * 40, HEAD_Y + 120 + drop + pose.y * UNITS)
    canvas.drawPicture(still(draw_clothes, identity))
    canvas.save()
    enter_head(canvas, pose)
    with moved(canvas, *parallax(pose, -0.3)):
        canvas.drawPicture(still(cat.draw_cat_ears, identity))
    cat.draw_cat_head(canvas, identity, drop)
    with moved(canvas, *parallax(pose, 0.7)):
        for side in (-1, 1):
            with moved(canvas, side * cat.EYE_X, -4):
                cat.draw_cat_eye(canvas, identity, pose, side)
    with moved(canvas, *parallax(pose, 1.1)):
        cat.draw_muzzle(canvas, identity, mouth, pose, drop)
        canvas.drawPicture(still(cat.draw_cat_nose, identity))
        canvas.drawPicture(still(cat.draw_whiskers, identity))
    canvas.restore()


def draw_robot(canvas: skia.Canvas, identity: Identity, pose: Pose, mouth: Mouth) -> None:
    drop = jaw_drop(mouth)
    draw_neck(canvas, replace(identity, skin=robot.STEEL), pose.x * UNITS * 0.7 - pose.roll * 40, HEAD_Y + 130 + drop + pose.y * UNITS)
    canvas.drawPicture(still(draw_clothes, identity))
    canvas.save()
    enter_head(canvas, pose)
    with moved(canvas, *parallax(pose, -0.3)):
        canvas.drawPicture(still(robot.draw_antenna, identity))
    robot.draw_jaw(canvas, identity, drop)
    with moved(canvas, *parallax(pose, 0.8)):
        robot.draw_robot_mouth(canvas, identity, mouth, pose)
    canvas.drawPicture(still(robot.draw_shell, identity))
    with moved(canvas, *parallax(pose, 0.5)):
        canvas.drawPicture(still(robot.draw_visor, identity))
        for side in (-1, 1):
            robot.draw_lamp_eye(canvas, identity, pose, side)
        canvas.drawPicture(still(robot.draw_visor_shine, identity))
    canvas.restore()


SITTERS = {"human": draw_human, "cat": draw_cat, "robot": draw_robot}
