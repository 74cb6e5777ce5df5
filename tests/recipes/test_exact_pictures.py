"""Pictures of the exact benchmark: what stands in them can be read."""

from typing import Any

from recipes.exact_posterior import pictures


def test_names_cover_no_others_and_stay_within_their_frame(tmp_path, monkeypatch):
    plain = {"task": "linear", "dim": 20, "observations": 1, "noise": 0.05, "floor": 0.3,
             "standard_error": 0.1, "particles": None}  # fmt: skip
    results = [("ddrm", 1000, 5.4), ("red_diff", 1000, 5.5), ("ddnm", 1020, 5.45),
               ("mgdm-published", 4000, 3.0), ("dps", 20, 7.0)]  # fmt: skip
    rows: list[Any] = [
        {**plain, "sampler": name, "cost": cost, "sliced_wasserstein": error}
        for name, cost, error in results
    ]
    kept: list[Any] = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: kept.append(figure) or path)
    pictures.cost_picture(rows, tmp_path / "a.png")
    (axis,) = kept[0].axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x1 <= axis.bbox.x1 for box in boxes)
