"""Families of continuous surfaces: machined metal, leather, wood grain, ceramic tile, granular material."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Canvas, Design, Scene, circle
from .noise import View, dome, noise_field, relief, scattered_points

METALS = (
    ("steel", "钢", (168, 170, 174)),
    ("aluminium", "铝", (196, 198, 201)),
    ("brass", "黄铜", (196, 164, 92)),
    ("copper", "铜", (190, 122, 88)),
    ("gunmetal", "深色金属", (96, 99, 106)),
    ("iron", "铁", (130, 128, 126)),
)
"""Name, Chinese name and colour of the metals the families draw from."""


def vary(colour: tuple[float, float, float], rng: np.random.Generator, amount: float = 10) -> np.ndarray:
    """A colour near the given one, float64 (3,)."""
    return np.clip(np.asarray(colour) + rng.normal(0, amount * 0.25, 3) + rng.normal(0, amount), 5, 250)


def _line_profile(values: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Looks a periodic one-dimensional profile up at every pixel, linearly between its samples."""
    place = np.mod(values, np.float32(len(profile) - 1))
    return cv2.remap(profile[None].astype(np.float32), place, np.zeros_like(place), cv2.INTER_LINEAR)


def machined_metal(rng: np.random.Generator) -> Design:
    """Brushed, turned, milled or blasted metal plate, with or without drilled holes."""
    name, name_zh, base = METALS[rng.integers(len(METALS))]
    finish = str(rng.choice(["brushed", "turned", "milled", "blasted"]))
    finish_zh = {"brushed": "拉丝", "turned": "车削", "milled": "铣削", "blasted": "喷砂"}[finish]
    colour = vary(base, rng)
    contrast = rng.uniform(6, 16)
    fine = rng.uniform(90, 170)
    centre = rng.uniform(-0.4, 0.4, 2) if rng.random() < 0.5 else rng.uniform(-2.5, 2.5, 2)
    pitch = rng.uniform(0.03, 0.09)
    swing = rng.uniform(2.2, 4)
    spokes = rng.uniform(0, np.pi)
    count = int(rng.choice([0, 0, 1, 2, 4]))
    radius = rng.uniform(0.08, 0.16)
    places = {
        0: [],
        1: [(0.0, 0.0)],
        2: [(-0.5, 0.0), (0.5, 0.0)],
        4: [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)],
    }[count]

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        cloud = noise_field(texture, size, 3) * 4
        if finish == "brushed":
            lines = noise_field(texture, size, (fine, 2.5), 2, 0.8)
            field = view.turn(lines) * contrast + cloud
        elif finish == "blasted":
            field = noise_field(texture, size, fine * 0.7, 2, 0.9) * contrast + cloud
        else:
            x, y = view.coordinates()
            profile = texture.standard_normal(257).astype(np.float32)
            if finish == "turned":
                dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
                radii, angle = cv2.cartToPolar(dx, dy)
                grooves = _line_profile(radii * np.float32(0.8 * fine), profile)
                glare = np.cos(2 * (angle - np.float32(spokes + view.light.azimuth)))
                field = grooves * (contrast * 0.8) + glare * (contrast * 0.9) + cloud
            else:
                arc = np.sqrt(np.maximum(np.float32(swing) ** 2 - y * y, 0))
                phase = (x - arc) / np.float32(pitch)
                wave = np.cos(phase * np.float32(2 * np.pi))
                field = wave * (contrast * 0.6) + _line_profile(phase * 11, profile) * (contrast * 0.5) + cloud
        image = field[..., None] * (colour / max(colour.max(), 1)).astype(np.float32) + colour.astype(np.float32)
        change = None
        missing = int(choice.integers(count)) if defect == "missing_part" else -1
        if count:
            holes = Canvas(view, np.zeros((size, size, 3), np.uint8))
            for index, place in enumerate(places):
                if index != missing:
                    holes.disc(place, radius, (255, 255, 255), 255)
            cover = holes.image[..., :1].astype(np.float32) / 255
            wall = cv2.warpAffine(
                holes.height,
                np.array(
                    [
                        [1, 0, -np.cos(view.light.azimuth) * 0.2 * radius * view.scale],
                        [0, 1, -np.sin(view.light.azimuth) * 0.2 * radius * view.scale],
                    ]
                ),
                (size, size),
            )
            wall = cv2.GaussianBlur(wall, (0, 0), 0.08 * radius * view.scale).astype(np.float32)[..., None] / 255
            depth = colour.astype(np.float32) * (0.55 - 0.47 * wall)
            image = image + cover * (depth - image)
            bevel = cv2.GaussianBlur(255 - holes.height, (0, 0), max(0.7, 0.02 * view.scale)).astype(np.float32)
            image = relief(image, bevel * np.float32(0.03 * view.scale / 255), view.light, 0.2, 20, 0.5)
            if missing >= 0:
                gone = Canvas(view)
                gone.disc(places[missing], radius * 1.18, (255, 255, 255))
                change = gone.height > 0
        words = ("a drilled hole is missing", "缺少一个钻孔") if change is not None else None
        return Scene(image, None, change, words)

    extra, extra_zh = (
        (f" with {count} drilled hole{'s' if count > 1 else ''}", f"，有{count}个钻孔") if count else ("", "")
    )
    return Design(
        draw,
        f"a {finish} {name} surface{extra}; the finish should be even, without scratches, dents or stains",
        f"{finish_zh}{name_zh}表面{extra_zh}；纹理应均匀，没有划痕、凹痕或污渍",
        ("missing_part",) if count else (),
    )


def leather(rng: np.random.Generator) -> Design:
    """Grained leather or artificial leather."""
    name, name_zh, base = [
        ("brown", "棕色", (112, 68, 42)),
        ("black", "黑色", (44, 42, 44)),
        ("tan", "浅棕色", (172, 124, 80)),
        ("red", "红色", (128, 40, 38)),
        ("grey", "灰色", (128, 126, 122)),
        ("cream", "米色", (208, 194, 168)),
    ][rng.integers(6)]
    colour = vary(base, rng, 6).astype(np.float32)
    spacing = rng.uniform(5, 12) / 224
    depth = rng.uniform(0.35, 0.9)
    gloss = rng.uniform(0.0, 0.35)
    wrinkle = rng.uniform(0.5, 2.0)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        unit = size / 224
        cell = max(spacing * size * view.scale / (size / 2), 3)
        distance, labels, points = scattered_points(texture, size, cell)
        crease = np.zeros((size, size), np.uint8)
        crease[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        crease[1:] |= labels[1:] != labels[:-1]
        bumps = dome(1 - crease, cell * 0.33)
        tones = texture.normal(0, 1, len(points)).astype(np.float32)
        bends = noise_field(texture, size, 14, 2)
        height = bumps * np.float32(depth * cell * 0.2) + bends * np.float32(wrinkle * unit * 0.6)
        height += noise_field(texture, size, 90) * np.float32(0.12 * unit)
        tone = 1 + 0.03 * tones[labels] + 0.05 * noise_field(texture, size, 3) - 0.25 * (1 - bumps)
        image = relief(colour * tone[..., None], cv2.GaussianBlur(height, (0, 0), 0.7 * unit), view.light, gloss, 14)
        return Scene(image)

    return Design(
        draw,
        f"{name} grained leather; the grain should be even, without cuts, folds, holes or stains",
        f"{name_zh}压纹皮革；纹理应均匀，没有划伤、折痕、孔洞或污渍",
    )


def wood_grain(rng: np.random.Generator) -> Design:
    """Planed wood with growth rings and fibres, in one board or several."""
    name, name_zh, light, dark = [
        ("oak", "橡木", (196, 156, 106), (142, 100, 60)),
        ("walnut", "胡桃木", (122, 84, 56), (74, 48, 34)),
        ("pine", "松木", (222, 186, 134), (188, 134, 80)),
        ("beech", "山毛榉", (206, 164, 124), (178, 130, 92)),
        ("mahogany", "红木", (142, 78, 54), (94, 46, 34)),
        ("ash", "白蜡木", (216, 200, 172), (178, 156, 124)),
    ][rng.integers(6)]
    bright, deep = vary(light, rng, 5).astype(np.float32), vary(dark, rng, 5).astype(np.float32)
    rings = rng.uniform(4, 11)
    waviness = rng.uniform(0.15, 0.5)
    pores = rng.uniform(0.05, 0.16)
    board = rng.uniform(0.4, 0.9) if rng.random() < 0.4 else None

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        x, y = view.coordinates()
        bow = view.turn(noise_field(texture, size, (2.2, 0.9), 2))
        across = y + np.float32(waviness * 0.4) * bow + np.float32(texture.uniform(-0.25, 0.25)) * x * x
        joint = None
        if board:
            row = np.floor(y / np.float32(board) + np.float32(texture.uniform(0, 0.02)))
            shift = texture.uniform(0, 5, 16).astype(np.float32)
            across = across + shift[np.clip(row + 8, 0, 15).astype(np.intp)]
            edge = np.abs(y / np.float32(board) - row - np.float32(0.5))
            joint = np.clip((edge - 0.5) * np.float32(board * view.scale) + np.float32(1.6 * size / 224), 0, 1)
        phase = across * np.float32(rings)
        saw = phase - np.floor(phase)
        late = np.where(saw < 0.8, saw / np.float32(0.8), (1 - saw) * 5) ** 2
        fibres = view.turn(noise_field(texture, size, (150, 4), 2, 0.8))
        mix = np.clip(0.12 + 0.6 * late + np.float32(pores) * fibres + 0.05 * noise_field(texture, size, 3), 0, 1)
        image = bright + mix[..., None] * (deep - bright)
        if joint is not None:
            image *= (1 - 0.6 * joint)[..., None]
        return Scene(image)

    boards, boards_zh = (" boards", "拼板") if board else ("", "")
    return Design(
        draw,
        f"planed {name} wood{boards} with regular grain, without holes, cracks, scratches or stains",
        f"刨光的{name_zh}{boards_zh}表面，木纹连贯，没有孔洞、裂纹、划痕或污渍",
    )


def ceramic_tile(rng: np.random.Generator) -> Design:
    """Ceramic tile: speckled, terrazzo, marbled or plain, with or without joints."""
    style = str(rng.choice(["speckled", "terrazzo", "marbled", "plain"]))
    style_zh = {"speckled": "斑点", "terrazzo": "水磨石", "marbled": "大理石纹", "plain": "素色"}[style]
    base = vary(
        [(206, 202, 194), (176, 182, 186), (120, 118, 116), (222, 218, 208), (160, 178, 186), (196, 172, 148)][
            rng.integers(6)
        ],
        rng,
        8,
    ).astype(np.float32)
    chips = np.stack([vary((base * factor), rng, 14) for factor in (0.45, 0.65, 0.82, 1.15)]).astype(np.float32)
    spacing = rng.uniform(5, 16)
    tile = rng.uniform(0.6, 1.1) if style == "plain" or rng.random() < 0.3 else None
    grout = vary((150, 146, 140), rng, 25).astype(np.float32)
    gloss = rng.uniform(0, 0.3)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        unit = size / 224
        if style == "terrazzo":
            distance, labels, points = scattered_points(texture, size, spacing * unit)
            bend = distance + noise_field(texture, size, 40) * np.float32(0.8 * unit)
            kinds = texture.integers(0, 6, len(points))
            palette = np.concatenate([chips, base[None], base[None]])
            cover = (bend < spacing * unit * 0.46) & (kinds[labels] < 4)
            image = np.where(cover[..., None], palette[kinds][labels], base)
            image = cv2.GaussianBlur(image, (0, 0), 0.5 * unit)
        else:
            image = np.broadcast_to(base, (size, size, 3)).astype(np.float32)
            if style == "speckled":
                for chip, cut in zip(chips, (1.5, 1.2, 1.1, 1.4), strict=True):
                    field = noise_field(texture, size, float(texture.uniform(45, 90)))
                    image += np.clip((field - cut) * 3, 0, 1)[..., None] * (chip - image)
            elif style == "marbled":
                vein = 1 - np.minimum(np.abs(noise_field(texture, size, 3.5, 4, 0.55)) * 5, 1)
                image = image + (vein**2 * 0.75)[..., None] * (chips[1] - image)
        image = image * (1 + 0.015 * noise_field(texture, size, 4, 3))[..., None]
        if tile:
            x, y = view.coordinates()
            gap = [np.abs(axis / np.float32(tile) - np.rint(axis / np.float32(tile))) for axis in (x, y)]
            joint = np.clip(3 * unit - np.minimum(*gap) * np.float32(tile * view.scale), 0, 1)
            edge = cv2.GaussianBlur(1 - joint, (0, 0), 1.2 * unit) * np.float32(2.5 * unit)
            image += joint[..., None] * (grout - image)
            return Scene(relief(image, edge, view.light, gloss, 30))
        return Scene(image)

    return Design(
        draw,
        f"a {style} ceramic tile surface, which should be free of cracks, chips, stains and rough spots",
        f"{style_zh}瓷砖表面，不应有裂纹、缺损、污渍或粗糙点",
    )


def granular(rng: np.random.Generator) -> Design:
    """Bulk material seen from above: gravel, pellets, beans, sand."""
    name, name_zh, palette, spread = [
        ("grey gravel", "灰色砾石", ((150, 148, 144), (120, 116, 112), (176, 170, 162)), 14),
        ("white plastic pellets", "白色塑料颗粒", ((226, 226, 222), (216, 218, 218)), 4),
        ("coffee beans", "咖啡豆", ((92, 58, 38), (78, 48, 32)), 8),
        ("blue plastic pellets", "蓝色塑料颗粒", ((48, 84, 160), (56, 94, 172)), 5),
        ("wheat grains", "小麦粒", ((206, 166, 104), (190, 148, 88)), 8),
        ("red lentils", "红扁豆", ((206, 104, 58), (192, 92, 50)), 8),
        ("coarse sand", "粗砂", ((196, 174, 138), (168, 146, 112), (214, 196, 164)), 12),
    ][rng.integers(7)]
    spacing = rng.uniform(5, 7) if name == "coarse sand" else rng.uniform(9, 18)
    gloss = rng.uniform(0, 0.45)
    stretch = {"coffee beans": 1.5, "wheat grains": 2.1, "red lentils": 1.0}.get(name, rng.uniform(1.0, 1.35))
    ragged = name in ("grey gravel", "coarse sand")

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        unit = size / 224
        cell = spacing * unit
        along = np.arange(size, dtype=np.float32)
        bend = noise_field(texture, size, 224 / spacing * 1.3) * np.float32(0.13) if ragged else None
        height = np.zeros((size, size), np.float32)
        image = np.full((size, size, 3), np.asarray(palette[0]) * 0.16).astype(np.uint8)
        for layer in range(3):  # grains lie on grains
            _, labels, points = scattered_points(texture, size, cell)
            number = len(points)
            turn = texture.uniform(0, np.pi, number)
            wide = cell * texture.uniform(0.5, 0.68, number) * stretch**0.5
            narrow = cell * texture.uniform(0.5, 0.68, number) / stretch**0.5
            tones = np.asarray(palette)[texture.integers(0, len(palette), number)]
            tones = np.clip((tones + texture.normal(0, spread, (number, 1))) * (0.62, 0.82, 1.0)[layer], 0, 255)
            table = np.empty((number, 9), np.float32)  # per grain: place, axes, lean, colour
            table[:, 0] = points[:, 0]
            table[:, 1] = points[:, 1]
            table[:, 2:4] = np.stack([np.cos(turn), np.sin(turn)], 1) / wide[:, None]
            table[:, 4] = wide / narrow
            table[:, 5] = texture.uniform(-0.5, 0.5, number)
            table[:, 6:] = tones
            own = np.take(table, labels, axis=0)
            dx, dy = along[None, :] - own[..., 0], along[:, None] - own[..., 1]
            p = own[..., 2] * dx + own[..., 3] * dy
            q = (own[..., 2] * dy - own[..., 3] * dx) * own[..., 4]
            if bend is None:
                away = p * p + q * q
            else:  # broken stone: facets instead of a round outline
                facets = np.maximum(np.abs(p + own[..., 5] * q), np.maximum(np.abs(q), 0.75 * np.abs(p - q)))
                away = facets * np.sqrt(facets) + bend
            top = np.sqrt(np.maximum(1 - away, 0))
            on = (top > 0.12).astype(np.uint8)
            if layer:
                image = cv2.convertScaleAbs(image, alpha=0.55)
            cv2.copyTo(own[..., 6:].astype(np.uint8), on, image)
            cv2.copyTo(top + np.float32(0.25 * layer), on, height)
        image = image * (0.75 + 0.25 * np.minimum(height, 1) + 0.025 * noise_field(texture, size, 110))[..., None]
        level = cv2.GaussianBlur(height, (0, 0), 0.7 * unit) * np.float32(cell * 0.3)
        return Scene(relief(image, level, view.light, gloss, 20, 0.5))

    return Design(
        draw,
        f"a dense layer of {name}, which should hold nothing else and no differing grains",
        f"密铺的{name_zh}，其中不应有异物或异样颗粒",
    )


def threaded_bore(
    canvas: Canvas, centre: tuple[float, float], radius: float, colour: np.ndarray, rings: int = 4
) -> None:
    """Draws a threaded hole: rings of light and shade that end in the dark."""
    for index in range(rings):
        share = 1 - 0.2 * index / rings
        canvas.polygon(circle(centre, radius * share, 48), colour * (0.75 if index % 2 else 0.4), 90 - 15 * index)
    canvas.polygon(circle(centre, radius * 0.8, 48), colour * 0.12, 1)
