"""The embedded long-tail benchmark "scenes": street scenes drawn on the fly, without a download.

A scene is a small street in three dimensions, painted from far to near as a pinhole camera sees it.
It is laid out in metres, so one (seed, split, index) shows the same street at every size. Class
shares fall over two orders of magnitude; each of the four tail classes is missing from most scenes.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from aucseg_hf.errors import InputError

# Name, display colour (that of Cityscapes where it has the class), broad and fine texture strength.
_CLASSES = (
    ("road", (128, 64, 128), 0.07, 0.05),
    ("sidewalk", (244, 35, 232), 0.06, 0.06),
    ("building", (70, 70, 70), 0.06, 0.06),
    ("fence", (190, 153, 153), 0.05, 0.07),
    ("pole", (153, 153, 153), 0.03, 0.03),
    ("traffic light", (250, 170, 30), 0.03, 0.03),
    ("traffic sign", (220, 220, 0), 0.03, 0.03),
    ("vegetation", (107, 142, 35), 0.14, 0.24),
    ("sky", (70, 130, 180), 0.03, 0.01),
    ("person", (220, 20, 60), 0.03, 0.06),
    ("car", (0, 0, 142), 0.04, 0.03),
    ("bicycle", (119, 11, 32), 0.03, 0.03),
    ("traffic cone", (0, 226, 200), 0.03, 0.03),
)
CLASS_NAMES: tuple[str, ...] = tuple(row[0] for row in _CLASSES)
PALETTE: tuple[tuple[int, int, int], ...] = tuple(row[1] for row in _CLASSES)
SPLIT_SIZES: dict[str, int] = {"train": 400, "val": 100}

_FOCAL = 0.95  # image heights on the picture per (metre across / metre ahead)
_CIRCLE = [(math.cos(a), math.sin(a)) for a in (i * math.pi / 7 for i in range(14))]
# Classes share colours on purpose: signs and cars, fences, clothes and walls, cones and bricks.
_WALLS = ((148, 88, 70), (166, 108, 84), (186, 168, 138), (142, 140, 136), (112, 112, 118),
          (196, 188, 172), (128, 104, 84), (152, 76, 62), (104, 112, 106))  # fmt: skip
_PAINTS = ((172, 36, 34), (224, 224, 222), (40, 42, 46), (132, 136, 142), (42, 72, 138),
           (196, 92, 48), (84, 96, 84), (190, 180, 150))  # fmt: skip
_GREENS = ((62, 96, 44), (84, 112, 52), (52, 80, 48), (104, 116, 56))
_GREYS = ((66, 68, 70), (104, 106, 108), (128, 126, 124), (150, 146, 140))
_SKIES = (((104, 152, 206), (190, 210, 226)), ((168, 176, 184), (206, 208, 208)),
          ((92, 98, 138), (226, 170, 128)))  # high and low: clear, cloudy, dusk  # fmt: skip
_WHITE, _GLASS, _DARK, _SHADOW = (222, 220, 212), (50, 58, 68), (32, 32, 36), (16, 18, 26, 110)

Colour = tuple[int, ...]
Points = Sequence[tuple[float, ...]]


def draw_scene(
    index: int, *, split: str = "train", seed: int = 0, size: int | tuple[int, int] = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street scene and its label map.

    Args:
        index: Number of the scene, from 0; not bounded by `SPLIT_SIZES`.
        split: A key of `SPLIT_SIZES`; the splits share no scene.
        seed: Number of the variant of the benchmark, from 0.
        size: Side of the square image, or (height, width), in pixels, at least 32. Another size
            shows the same scene; only the noise of single pixels differs.

    Returns:
        The image, uint8 [H, W, 3], and the labels, uint8 [H, W]: ids into `CLASS_NAMES`, and 255
        (void) on the contours between classes, one pixel wide at 128 pixels.

    Raises:
        InputError: If `split` is unknown, `index` or `seed` is negative or `size` is too small.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if split not in SPLIT_SIZES:
        raise InputError(f"expected split to be one of {list(SPLIT_SIZES)}, got {split!r}")
    if index < 0 or seed < 0:
        raise InputError(f"expected index and seed >= 0, got index {index} and seed {seed}")
    if min(height, width) < 32:
        raise InputError(f"expected a size of at least 32 pixels, got {height} x {width}")
    key = [seed, list(SPLIT_SIZES).index(split), index]
    scene = _Scene(height, width, np.random.default_rng([*key, 0]))
    _draw_backdrop(scene)
    for z, draw, x in sorted(_lay_out(scene), key=lambda thing: -thing[0]):
        draw(scene, x, z)
    return scene.photograph(np.random.default_rng([*key, 1]))


class _Scene:
    """A camera above a street and its two canvases, image and objects.

    Metres: x to the right of the camera, y above the ground, z ahead; the points of a shape, (x, y)
    or (x, y, z), count from the place (x, z) where the current object stands.
    """

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng, self.shape, self.aspect = rng, (width, height), width / height
        # Two canvas pixels per image pixel smooth the edges; 256 keep small things in tiny images.
        self.scale = max(2, math.ceil(256 / min(height, width)))
        self.unit = height * self.scale
        self.image = Image.new("RGB", (width * self.scale, self.unit))
        self.objects = Image.new("L", self.image.size)  # number of the object seen, far to near
        self.pens = ImageDraw.Draw(self.image, "RGBA"), ImageDraw.Draw(self.objects)
        self.class_of: list[int] = []
        self.horizon, self.camera = rng.uniform(0.34, 0.46), rng.uniform(2.3, 3.0)
        # A wide image shows a wider street, with things of the usual shape.
        self.centre = self.aspect * rng.uniform(0.34, 0.66)
        self.kerbs = {side: side * self.aspect * rng.uniform(1.9, 4.0) for side in (-1, 1)}
        self.walk = self.aspect * rng.uniform(1.8, 3.6)
        self.dusk, self.sun = rng.random() < 0.2, 1 if rng.random() < 0.5 else -1
        self.sky = _SKIES[2 if self.dusk else rng.integers(2)]

    def begin(self, name: str, x: float = 0.0, z: float = 0.0, shadow: float = 0.0) -> None:
        """Start an object at (x, z) in front of all earlier ones, with a shadow on the ground."""
        self.class_of.append(CLASS_NAMES.index(name))
        self.x, self.z, self.clear = x, z, math.exp(-z / 160)
        if shadow:
            self.paint(_disc(0, 0, shadow, shadow * 0.15), _SHADOW)

    def nearest(self, x: float) -> float:
        """Distance from which on a thing at `x` is inside the picture, in metres."""
        room = self.aspect - self.centre if x > 0 else self.centre
        return max(5.0, abs(x) * _FOCAL / (0.88 * room))

    def tone(self, *colours: Colour) -> Colour:
        """Choose one of the colours and vary it a little."""
        return _dim(colours[self.rng.integers(len(colours))], self.rng.uniform(0.85, 1.15))

    def paint(self, points: Points, colour: Colour) -> list[tuple[float, float]]:
        """Colour a polygon that is no part of the label map; return its place on the canvas."""
        across, down, unit = self.centre * self.unit, self.horizon * self.unit, self.unit * _FOCAL
        if len(points[0]) == 2:
            k = unit / self.z
            place = [(across + (self.x + x) * k, down + (self.camera - y) * k) for x, y in points]
        else:
            zooms = [(x, y, unit / (self.z + z)) for x, y, z in points]
            place = [(across + (self.x + x) * k, down + (self.camera - y) * k) for x, y, k in zooms]
        hazy = [int(f + (c - f) * self.clear) for c, f in zip(colour, self.sky[1], strict=False)]
        self.pens[0].polygon(place, (*hazy, *colour[3:]))
        return place

    def fill(self, points: Points, colour: Colour) -> None:
        """Colour a polygon and make it part of the current object."""
        self.pens[1].polygon(self.paint(points, colour), len(self.class_of) - 1)

    def photograph(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Turn the canvases into image and label map; `rng` makes the texture and the noise."""
        objects, class_of = np.asarray(self.objects), np.array(self.class_of, np.uint8)
        front = objects.copy()  # the foremost object within the width of a contour
        for i in range(1, round(min(objects.shape) / 128) + 1):
            for to, seen in ((front, objects), (front.T, objects.T)):
                np.maximum(to[i:], seen[:-i], out=to[i:])
                np.maximum(to[:-i], seen[i:], out=to[:-i])
        grid = slice(self.scale // 2, None, self.scale)
        front, behind = class_of[front[grid, grid]], class_of[objects[grid, grid]]
        # Only the object behind loses pixels to a contour, so that small things stay whole.
        labels = np.where(front == behind, behind, np.uint8(255))
        small = self.image.resize(self.shape, Image.Resampling.BOX)
        blur = ImageFilter.BoxBlur(self.rng.uniform(0.0, 0.4) * min(self.shape) / 128)
        pixels = np.asarray(small.filter(blur), np.float32) / 255
        texture = np.ones(labels.shape, np.float32)
        for cells, strength in ((12, 2), (96, 3)):
            coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
            cloud = np.asarray(coarse.resize(self.shape, Image.Resampling.BILINEAR))
            texture += cloud * np.array([row[strength] for row in _CLASSES], np.float32)[behind]
        light = self.rng.uniform(0.8, 1.15) * self.rng.uniform(0.94, 1.06, 3)
        light = np.float32(light * ((0.62, 0.6, 0.74) if self.dusk else 1))
        contrast, grain = np.float32(self.rng.uniform([0.75, 0.006], [1.1, 0.026]))
        pixels = (pixels * texture[..., None] * contrast + 0.45 * (1 - contrast)) * light
        pixels += grain * rng.standard_normal(pixels.shape, np.float32)
        return (np.clip(pixels, 0, 1) * 255).astype(np.uint8), labels


def _dim(colour: Colour, gain: float) -> Colour:
    return tuple([min(255, int(c * gain)) for c in colour])


def _box(left: float, bottom: float, right: float, top: float) -> Points:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _disc(x: float, y: float, rx: float, ry: float = 0.0) -> Points:
    return [(x + rx * c, y + (ry or rx) * s) for c, s in _CIRCLE]


def _bar(x0: float, y0: float, x1: float, y1: float, thick: float) -> Points:
    half = thick / 2 / math.hypot(x1 - x0, y1 - y0)
    dx, dy = (y1 - y0) * half, (x0 - x1) * half
    return [(x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy)]


def _strip(x0: float, y0: float, x1: float, y1: float, near: float, far: float) -> Points:
    """A rectangle along the street: a piece of the ground, a wall or a roof."""
    return [(x0, y0, near), (x1, y1, near), (x1, y1, far), (x0, y0, far)]


def _lay_out(scene: _Scene) -> list[tuple]:
    """Choose what stands on the ground: (distance, function that draws it, position across)."""
    # At most how many on each side, chance of each, place across (0 is the kerb, 1 the houses, -1
    # the middle of the road), and distance in multiples of the nearest that can be seen.
    plan = (
        (_draw_sign, 1, 0.16, (0.1, 0.2), 1.3),
        (_draw_light, 1, 0.15, (0.05, 0.15), 1.3),
        (_draw_bicycle, 1, 0.12, (-0.3, 0.5), 1.35),
        (_draw_cones, 1, 0.12, (-0.8, 0.2), 1.3),
        (_draw_person, 3, 0.42, (-0.2, 0.9), 2.0),
        (_draw_lamp, 2, 0.36, (0.08, 0.15), 3.0),
        (_draw_tree, 3, 0.4, (0.3, 1.0), 3.0),
        (_draw_car, 2, 0.55, (-0.6, -0.2), 3.0),
    )
    rng, things = scene.rng, []
    for side, kerb in scene.kerbs.items():
        front, z, green = kerb + side * scene.walk, rng.uniform(120, 156), rng.uniform(0.1, 0.6)
        while z > 0.9 * scene.nearest(front):
            z /= 1.3
            things.append((z, _draw_park if rng.random() < green else _draw_house, front))
        for draw, most, chance, (low, high), reach in plan:
            for _ in range(most):
                across, near = rng.uniform(low, high), rng.uniform(1.02, reach)
                x = kerb + side * across * (scene.walk if across > 0 else abs(kerb))
                if rng.random() < chance:
                    things.append((near * scene.nearest(x), draw, x))
    return things


def _draw_backdrop(scene: _Scene) -> None:
    rng, (left, right), wide = scene.rng, scene.kerbs.values(), 40 * scene.aspect
    scene.begin("sky", z=_FOCAL)  # where a metre is as high as the picture
    scene.fill(_box(-wide, 0, wide, scene.camera + 1), scene.sky[1])
    for i in range(12):
        colour = [int(b + (a - b) * (i + 1) / 12) for a, b in zip(*scene.sky, strict=True)]
        bottom = scene.camera + scene.horizon * i / 12
        scene.paint(_box(-wide, bottom, wide, bottom + 0.05), colour)
    paving, white = scene.tone(*_GREYS[2:], (158, 140, 124)), (*_WHITE, 180)
    scene.begin("sidewalk")
    scene.fill(_strip(-wide, 0, wide, 0, 1, 900), paving)
    for i in range(14):
        scene.paint(_strip(-wide, 0, wide, 0, 4 * 1.16**i, 4.03 * 1.16**i), _dim(paving, 0.82))
    scene.paint(_strip(left - 0.2, 0, right + 0.2, 0, 1, 300), _dim(paving, 1.2))
    scene.begin("road")
    scene.fill(_strip(left, 0, right, 0, 1, 900), scene.tone((90, 90, 94), (108, 108, 112)))
    lane, crossing = left + (right - left) * rng.uniform(0.4, 0.6), rng.uniform(6, 18)
    for z in (3.2 * np.arange(1, 13)).tolist():
        scene.paint(_strip(lane - 0.08, 0, lane + 0.08, 0, z, z + 1.6), white)
    bar = (right - left) / 20
    for x in (left + bar * np.arange(0.5, 20 if crossing < 11 else 0, 2)).tolist():
        scene.paint(_strip(x, 0, x + bar, 0, crossing, crossing * 1.25), white)
    if not scene.dusk:  # the houses on one side shade a part of the street
        edge = scene.kerbs[-scene.sun] * rng.uniform(-0.2, 2.0)
        scene.paint(_strip(-scene.sun * wide, 0, edge, 0, 1, 300), (20, 24, 40, 80))


def _draw_house(scene: _Scene, x: float, z: float) -> None:
    rng, side, depth = scene.rng, int(math.copysign(1, x)), 0.3 * z
    floors, storey, columns = rng.integers(2, 6), rng.uniform(2.9, 3.4), rng.integers(2, 4)
    wall, glass = scene.tone(*_WALLS), scene.tone((58, 68, 82), (110, 126, 144), (40, 42, 50))
    scene.begin("building", x, z)
    scene.fill(_box(0, 0, side * 30 * scene.aspect, floors * storey + 0.4), _dim(wall, 0.72))
    wall = _dim(wall, 0.84 if side == scene.sun else 1.1)
    scene.fill(_strip(0, 0, 0, floors * storey + 0.4, 0, depth), wall)
    for bottom in (1 + storey * np.arange(floors if z < 80 else 0)).tolist():
        for near in (depth * (np.arange(columns) + 0.25) / columns).tolist():
            pane = _strip(0, bottom, 0, bottom + 1.5, near, near + depth / columns / 2)
            scene.paint(pane, (246, 206, 128) if scene.dusk and rng.random() < 0.35 else glass)
        if z < 25:
            scene.paint(_box(side, bottom, side * 2.2, bottom + 1.5), _dim(glass, 0.8))
    for shape in (_strip(0, 2.5, 0, 3, 0, depth * 0.7), _disc(-side * 0.4, 3.6, 0.35)):
        scene.fill(shape, scene.tone(*_PAINTS))  # an awning like a car, a plate like a sign


def _draw_park(scene: _Scene, x: float, z: float) -> None:
    rng, side, depth = scene.rng, math.copysign(1, x), 0.3 * z
    hedge, high = scene.tone(*_GREENS), rng.uniform(1.6, 3.4)
    scene.begin("vegetation", x + side, z)
    scene.fill(_box(0, 0, side * 30 * scene.aspect, high), _dim(hedge, 0.7))
    scene.fill(_strip(0, 0, 0, high, 0, depth), _dim(hedge, 0.85))
    for back in (0.75, 0.25):
        _draw_tree(scene, x + side * rng.uniform(1, 3), z + back * depth)
    if rng.random() < 0.65:
        board, high = scene.tone(*_WALLS), rng.uniform(1.1, 1.9)
        scene.begin("fence", x, z)
        scene.fill(_strip(0, 0, 0, high, 0, depth), (*_dim(board, 0.55), 200))
        for near in np.arange(0, depth, depth / 12).tolist():
            scene.paint(_strip(0, 0, 0, high, near, near + depth / 22), board)


def _draw_tree(scene: _Scene, x: float, z: float) -> None:
    rng, green = scene.rng, scene.tone(*_GREENS)
    high, wide = rng.uniform(3.4, 5.6), rng.uniform(1.0, 1.8)
    scene.begin("vegetation", x, z, shadow=1.2)
    scene.fill(_box(-0.13, 0, 0.13, high), (82, 66, 52))
    for i, (dx, dy, radius) in enumerate(rng.uniform((-0.8, -0.7, 0.4), 0.8, (6, 3)).tolist()):
        leaves = _disc(dx * wide, high + dy * wide + 0.1 * i, wide * radius)
        scene.fill(leaves, _dim(green, 0.75 + 0.08 * i))


def _draw_pole(scene: _Scene, x: float, z: float, high: float) -> None:
    scene.begin("pole", x, z, shadow=0.3)
    scene.fill(_box(-0.08, 0, 0.08, high), scene.tone(*_GREYS))


def _draw_lamp(scene: _Scene, x: float, z: float) -> None:
    high, arm = scene.rng.uniform(4.5, 7.0), -math.copysign(1.5, x)
    _draw_pole(scene, x, z, high)
    scene.fill(_bar(0, high, arm, high + 0.3, 0.15), (150, 148, 140))


def _draw_sign(scene: _Scene, x: float, z: float) -> None:
    y, r = scene.rng.uniform(2.3, 2.9), scene.rng.uniform(0.42, 0.56)
    plate, colour, detail = (
        (_disc(0, y, r), (186, 36, 36), _box(-0.65 * r, y - 0.12, 0.65 * r, y + 0.12)),
        (_box(-r, y - r, r, y + r), (40, 76, 150), _disc(0, y, 0.55 * r)),
        ([(-r, y - r), (r, y - r), (0, y + r)], (196, 60, 36), _disc(0, y - 0.4 * r, 0.35 * r)),
    )[scene.rng.integers(3)]
    _draw_pole(scene, x, z, y)
    scene.begin("traffic sign", x, z)
    scene.fill(plate, scene.tone(colour))
    scene.paint(detail, _WHITE)


def _draw_light(scene: _Scene, x: float, z: float) -> None:
    _draw_pole(scene, x, z, 2.6)
    scene.begin("traffic light", x, z)
    scene.fill(_box(-0.25, 2.4, 0.25, 3.55), scene.tone((34, 36, 38), (66, 66, 62)))
    on = scene.rng.integers(3)
    for i, colour in enumerate(((60, 220, 130), (244, 190, 50), (240, 50, 40))):
        scene.paint(_disc(0, 2.65 + 0.35 * i, 0.15), colour if i == on else _dim(colour, 0.25))


def _draw_cones(scene: _Scene, x: float, z: float) -> None:
    for back in range(scene.rng.integers(1, 4), 0, -1):
        orange = scene.tone((206, 88, 44))
        scene.begin("traffic cone", x + scene.rng.uniform(-0.4, 0.4), z + back - 1, shadow=0.4)
        scene.fill(_box(-0.3, 0, 0.3, 0.08), _dim(orange, 0.7))
        scene.fill([(-0.22, 0.08), (0.22, 0.08), (0.05, 0.85), (-0.05, 0.85)], orange)
        scene.paint([(-0.15, 0.36), (0.15, 0.36), (0.11, 0.55), (-0.11, 0.55)], _WHITE)


def _draw_bicycle(scene: _Scene, x: float, z: float) -> None:
    paint = scene.tone(*_PAINTS)
    scene.begin("bicycle", x, z, shadow=1.0)
    for hub in (-0.56, 0.56):
        scene.fill(_disc(hub, 0.36, 0.36), (60, 60, 64, 60))  # the spokes let the street through
        scene.paint(_disc(hub, 0.36, 0.36) + _disc(hub, 0.36, 0.28)[::-1], _DARK)
    back, saddle, pedals, head = (-0.56, 0.36), (-0.2, 0.9), (0.0, 0.34), (0.42, 0.9)
    frame = ((saddle, pedals), (saddle, head), (pedals, head), (back, saddle), (back, pedals))
    for start, end in (*frame, ((0.56, 0.36), (0.4, 1.05)), ((0.3, 1.08), (0.54, 1.08))):
        scene.fill(_bar(*start, *end, 0.09), paint)


def _draw_person(scene: _Scene, x: float, z: float) -> None:
    rng, coat, trousers = scene.rng, *(scene.tone(*_WALLS, *_PAINTS[2:]) for _ in range(2))
    skin, hair = scene.tone((206, 164, 136), (104, 72, 54)), scene.tone((44, 34, 28), (120, 96, 70))
    stride, swing = rng.uniform(0.03, 0.28), rng.uniform(-0.2, 0.2)
    scene.begin("person", x, z, shadow=0.45)
    for foot, hand in ((-stride, -0.25), (stride, 0.25)):
        scene.fill(_bar(foot, 0, foot * 0.3, 0.86, 0.18), trousers)
        scene.fill(_bar(hand, 1.4, hand * 1.1 + swing, 0.8, 0.12), _dim(coat, 0.85))
    scene.fill([(-0.2, 0.78), (0.2, 0.78), (0.25, 1.42), (0, 1.54), (-0.25, 1.42)], coat)
    scene.fill(_disc(0, 1.63, 0.12, 0.14), skin)
    scene.fill(_disc(0, 1.71, 0.125, 0.08), hair)


def _draw_car(scene: _Scene, x: float, z: float) -> None:
    paint, lamp = scene.tone(*_PAINTS), (196, 34, 30) if x > 0 else (240, 236, 206)
    near = -math.copysign(0.88, x)  # the flank seen from the middle of the road
    top = scene.rng.uniform(1.4, 1.55) if scene.rng.random() < 0.8 else 2.1
    scene.begin("car", x, z)
    scene.paint(_strip(-1.05, 0, 1.05, 0, -0.2, 4.4), _SHADOW)
    scene.fill(_strip(near, 0.25, near, 0.95, 0, 4.2), _dim(paint, 0.75))
    for axle in (0.5, 3.0):
        scene.fill(_strip(near, 0, near, 0.6, axle, axle + 0.65), _DARK)
    scene.fill(_strip(-0.86, 0.95, 0.86, 0.95, 0, 4.2), _dim(paint, 1.1))
    roof = near * 0.75
    scene.fill([(near, 0.95, 0.2), (roof, top, 0.7), (roof, top, 2.7), (near, 0.95, 3.3)], _GLASS)
    scene.fill(_strip(-0.66, top, 0.66, top, 0.7, 2.7), _dim(paint, 1.15))
    for w, s, low, high, colour in (
        (0.86, 0.66, 0.95, top, paint),
        (0.76, 0.56, 1, top - 0.1, _GLASS),
    ):
        scene.fill([(-w, low, 0.2), (w, low, 0.2), (s, high, 0.7), (-s, high, 0.7)], colour)
    scene.fill(_box(-0.88, 0.25, 0.88, 0.95), paint)
    for left in (-0.84, 0.54):
        scene.fill(_box(left, 0, left + 0.3, 0.3), _DARK)
        scene.paint(_box(left, 0.62, left + 0.3, 0.82), lamp)


def contact_sheet(num_scenes: int = 12, size: int = 176) -> Image.Image:
    """Show training scenes, four a row, beside their coloured label maps and above a legend."""
    colours = np.pad(np.array(PALETTE, np.uint8), ((0, 256 - len(PALETTE)), (0, 0)))
    sheet = Image.new("RGB", (8 * size, math.ceil(num_scenes / 4) * size + 44), "white")
    for i in range(num_scenes):
        image, labels = draw_scene(i, size=size)
        pair = np.hstack((image, colours[labels]))
        sheet.paste(Image.fromarray(pair), (i % 4 * 2 * size, i // 4 * size))
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate((*CLASS_NAMES, "void")):
        x, y = 8 + i % 7 * sheet.width // 7, sheet.height - 38 + i // 7 * 18
        pen.rectangle((x, y, x + 22, y + 12), tuple(colours[i].tolist()))
        pen.text((x + 28, y), name, "black")
    return sheet.quantize(256, Image.Quantize.FASTOCTREE)
