"""Data sets as their releases give them: clips and their sound, whole videos with times and boxes, nested folders."""

import json
import logging

import av
import numpy as np
import pytest
from made import speech_like, write_wav
from test_train_data import cut, number_of, segment_of, write_video

from livetalk_core.train import cut as cutting
from livetalk_core.train import sound
from livetalk_core.train.cut import frames_at_25, picture_size
from livetalk_core.train.manifest import find_segments, youtube_id

ANNOTATION = {
    "is_talking": 1,
    "video_name": "a_b-cdefghij_1920x1080_full_video",
    "start": 2.0,
    "duration": 4.0,
    "bbox": [0.5, 0.0, 1.0, 0.5],
    "start_seconds": 1.0,
    "end_seconds": 6.5,
}
NAME = "a_b-cdefghij_1920x1080_full_video_042_A_01"


def write_m4a(path, samples):
    """AAC in MP4, 16 kHz mono."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


def write_list(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_a_clip_without_sound_takes_the_m4a_beside_it(tmp_path):
    """As TalkVid's downloader leaves it: clips in a folder per video, their sound apart."""
    folder = tmp_path / "clips" / "Tr6MMsoWAog"
    folder.mkdir(parents=True)
    name = "Tr6MMsoWAog_001_0.100_6.100"
    write_video(folder / f"{name}.mp4", 150)
    write_m4a(folder / f"{name}.m4a", speech_like(6))
    link = "https://www.youtube.com/watch?v=Tr6MMsoWAog&t=3"
    rows = [{"id": "videovideoTr6MMsoWAog-scene1", "start-time": 0.1, "end-time": 6.1, "info": {"Video Link": link}}]
    (found,) = find_segments(write_list(tmp_path / "talkvid.json", rows), tmp_path / "clips")
    assert (found.path.stem, found.start_s, found.end_s) == (name, 0.0, None)
    (clip,) = cut(found.path)
    begin = (int(clip.key.partition("@")[2]) - clip.lead) * 640
    assert np.corrcoef(clip.sound_N[3200:32000], speech_like(6)[begin + 3200 : begin + 32000])[0, 1] > 0.9


def test_a_clip_of_other_times_is_not_taken_for_a_row(tmp_path, caplog):
    (tmp_path / "abcdefghijk_001_10.500_25.300.mp4").write_bytes(b"x")
    rows = [
        {"id": "a", "start-time": start, "end-time": 25.3, "info": {"Video Link": "https://youtu.be/abcdefghijk"}} for start in (10.5, 3)
    ]
    with caplog.at_level(logging.WARNING):
        (found,) = find_segments(write_list(tmp_path / "list.json", rows))
    assert found.path.stem == "abcdefghijk_001_10.500_25.300" and "skipped talkvid a" in caplog.text


@pytest.mark.parametrize(
    "link", ["https://www.youtube.com/watch?v=a_b-cdefghi&t=5", "https://youtu.be/a_b-cdefghi?si=x", "youtube.com/shorts/a_b-cdefghi"]
)
def test_every_form_of_a_link_names_its_video(link):
    assert youtube_id(link) == "a_b-cdefghi"


@pytest.mark.parametrize("form", ["names", "rows"])
def test_speakervid_gives_times_and_a_box_of_a_whole_video(tmp_path, form):
    """As its release has them: names of JSON files by video, and one annotation file each; or rows with both."""
    (tmp_path / "videos/deep/er").mkdir(parents=True)
    whole = write_video(tmp_path / "videos/deep/er/a_b-cdefghij.mp4", 200, sound=write_wav(tmp_path / "s.wav", speech_like(8)))
    if form == "names":
        (tmp_path / "merged_anno").mkdir()
        write_list(tmp_path / "merged_anno" / f"{NAME}.json", ANNOTATION)
        rows = {"a_b-cdefghij": [f"{NAME}.json"]}
    else:
        rows = [ANNOTATION | {"filename": f"{NAME}.json"}]
    (found,) = find_segments(write_list(tmp_path / "SFT_set.json", rows), tmp_path / "videos")
    assert (found.key, found.path, found.start_s, found.end_s) == (NAME, whole, 2.0, 6.0)
    assert found.box == (0.5, 0.0, 1.0, 0.5) and picture_size(found) == (16, 16)


@pytest.mark.parametrize(
    "changes, message",
    [({"is_talking": 0}, "does not talk"), ({"bbox": [0.6, 0, 0.4, 1]}, "bbox="), ({"video_name": "gone_1x1_full_video"}, "no video gone")],
)
def test_a_speakervid_row_that_cannot_be_used_is_skipped_with_its_reason(tmp_path, caplog, changes, message):
    (tmp_path / "a_b-cdefghij.mp4").write_bytes(b"x")
    rows = [ANNOTATION | {"filename": f"{NAME}.json"} | changes]
    with caplog.at_level(logging.WARNING):
        assert not list(find_segments(write_list(tmp_path / "list.json", rows)))
    assert message in caplog.text


def test_only_the_box_of_the_picture_is_seen(tmp_path):
    """A picture that is bright on the right, cut to its right half."""
    pictures = np.zeros((150, 32, 64, 3), np.uint8)
    pictures[:, :, 32:] = 200
    sound_file = write_wav(tmp_path / "s.wav", speech_like(6))
    with cutting_writer(tmp_path / "two.mp4", sound_file) as writer:
        writer.write(pictures)
    (right,) = cut(tmp_path / "two.mp4", box=(0.5, 0.0, 1.0, 1.0))
    (left,) = cut(tmp_path / "two.mp4", box=(0.0, 0.0, 0.5, 1.0))
    assert right.frames_THWC.float().mean() > 180 and left.frames_THWC.float().mean() < 20


def cutting_writer(path, sound_file):
    from livetalk_core.media.video import VideoWriter

    return VideoWriter(path, width=64, height=32, audio=sound_file, crf=1)


def test_a_segment_late_in_a_file_is_decoded_from_near_its_start(tmp_path, monkeypatch):
    """The same frames and sound as by decoding all of it, of a few seconds."""
    path = write_video(tmp_path / "long.mp4", 500, sound=write_wav(tmp_path / "s.wav", speech_like(20)))
    segment = segment_of(path, start_s=15.0, end_s=17.0)
    decoded = {"frames": 0, "sounds": 0}
    decode, unpack = cutting.decode_frames, sound.unpack

    def counted_frames(*given):
        for frame in decode(*given):
            decoded["frames"] += 1
            yield frame

    def counted_sounds(*given):
        decoded["sounds"] += 1
        return unpack(*given)

    monkeypatch.setattr(cutting, "decode_frames", counted_frames)
    monkeypatch.setattr(sound, "unpack", counted_sounds)
    times = [frame.time for frame in frames_at_25(segment)]
    heard = sound.read_sound(segment)
    whole = sound.read_whole(path, 19 * 16000)[15 * 16000 :]
    assert times == pytest.approx([15 + k / 25 for k in range(50)]) and decoded["frames"] < 150
    assert len(heard) == len(whole) and np.corrcoef(heard, whole)[0, 1] > 0.999, "AAC fills in noise of its own"
    assert np.corrcoef(heard[16:], whole[:-16])[0, 1] < 0.99, "the control: 1 ms off"
    assert 0 < decoded["sounds"] < 8 * 16000 / 1024
    (clip,) = cut(path, chunks=1, start_s=15.0, end_s=17.0)
    begin = 375 + int(clip.key.partition("@")[2])
    assert (number_of(clip.frames_THWC[0]) - begin) % 120 in (119, 0, 1), "the codec may be off by a gray"
    assert np.corrcoef(clip.sound_N[clip.lead * 640 :][:16000], heard[(begin - 375) * 640 :][:16000])[0, 1] > 0.999
