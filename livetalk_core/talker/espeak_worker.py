"""Runs espeak-ng in its own process: reads requests as JSON lines, answers each with a JSON line and raw 16-bit samples.

espeak-ng keeps state between utterances, so only a new process gives the same samples for the same text. Only the standard library is
imported, for a fast start. Constants are from the C header speak_lib.h of espeak-ng 1.5x.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import sys

SYNCHRONOUS = 2
PHONE_EVENTS_IN_IPA = 3
END, PHONE = 0, 7
UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4


class Label(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", Label),
    ]


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))


def main() -> None:
    """Answer each request with {"rate", "bytes", "starts": [[ipa, sample], ...]} or {"missing": ...} or {"bad": ...}."""
    try:
        library, rate = open_library()
    except FileNotFoundError as error:
        answer({"missing": str(error)}, b"")
        return
    for line in sys.stdin:
        try:
            raw, starts = synthesize(library, **json.loads(line))
        except ValueError as error:
            answer({"bad": str(error)}, b"")
            return
        answer({"rate": rate, "bytes": len(raw), "starts": starts}, raw)


def answer(header: dict, raw: bytes) -> None:
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + raw)


def open_library() -> tuple[ctypes.CDLL, int]:
    """The library and its sample rate. FileNotFoundError when espeak-ng or its voices are not installed."""
    path = ctypes.util.find_library("espeak-ng")
    if path is None:
        raise FileNotFoundError("libespeak-ng was not found; install espeak-ng (apt install espeak-ng, brew install espeak-ng)")
    library = ctypes.CDLL(path)
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONE_EVENTS_IN_IPA)
    if rate <= 0:
        raise FileNotFoundError(f"{path} found no voice data (code {rate}); install the package espeak-ng-data")
    return library, rate


def synthesize(
    library: ctypes.CDLL, text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int
) -> tuple[bytes, list[tuple[str, int]]]:
    """The samples and the first sample of each phone."""
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(
            f"voice={voice!r} is not a voice of espeak-ng; use a file name from `espeak-ng --voices`, with a variant if wanted: 'en-us+f2'"
        )
    for parameter, value in ((RATE, words_per_minute), (PITCH, pitch), (RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    pieces: list[bytes] = []
    starts: list[tuple[str, int]] = []

    def take(wave: int | None, count: int, events) -> int:
        if wave and count:
            pieces.append(ctypes.string_at(wave, 2 * count))
        starts.extend(phone_starts(events))
        return 0

    callback = CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    raw = text.encode()
    code = library.espeak_Synth(raw, len(raw) + 1, 0, 0, 0, UTF8, None, None)
    assert code == 0, f"espeak_Synth returned {code}"
    if not pieces:
        raise ValueError(f"text={text!r} gave no sound in voice {voice!r}; use words of that language")
    return b"".join(pieces), starts


def phone_starts(events) -> list[tuple[str, int]]:
    starts, index = [], 0
    while events[index].kind != END:
        if events[index].kind == PHONE:
            label = bytes(events[index].id.string).split(b"\0")[0].decode("utf-8", "ignore")
            starts.append((label, events[index].sample))
        index += 1
    return starts


if __name__ == "__main__":
    main()
