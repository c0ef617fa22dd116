from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info


def test_the_demo_checkpoint_says_what_it_cannot_do() -> None:
    info = model_info("demo", VisionSettings())
    assert info.notice is not None
    assert "only drawn scenes" in info.notice
    assert info.frame_spec.target_size(640, 360) == (196, 112)


def test_a_real_checkpoint_has_no_notice_and_rows_under_ten_megabytes() -> None:
    info = model_info("qwen", VisionSettings(checkpoint="Qwen/Qwen2.5-VL-7B-Instruct"))
    assert info.notice is None
    width, height = info.frame_spec.target_size(1920, 1080)
    assert 16 * width * height * 3 < 10e6


def test_the_simulated_engine_stands_for_a_real_one_and_says_that_it_sees_nothing() -> None:
    info = model_info("sim", VisionSettings(engine="simulated"))
    assert info.frame_spec == model_info("qwen", VisionSettings(checkpoint="Qwen/x")).frame_spec
    assert info.notice is not None
    assert "looks at no pixels" in info.notice


def test_settings_win_over_what_the_checkpoint_was_trained_for() -> None:
    settings = VisionSettings(checkpoint="Qwen/x", max_pixels=28 * 28 * 4, max_frames=5)
    info = model_info("small", settings)
    assert (info.frame_spec.min_pixels, info.frame_spec.max_pixels, info.max_frames) == (3136, 3136, 5)


def test_revisions_tell_apart_what_may_caption_differently() -> None:
    changes: list[dict[str, str]] = [{}, {"checkpoint": "x/y"}, {"revision": "v2"}, {"dtype": "bf16"}]
    changes.append({"quantization": "nf4"})
    assert len({model_info("m", VisionSettings.model_validate(change)).revision for change in changes}) == 5
