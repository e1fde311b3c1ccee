#!/usr/bin/env python3
"""A plug-in in Python's standard library alone: reports file systems that are nearly full.

It speaks the worker protocol (proto/worker/v1/worker.proto) at descriptor 3: frames of a length (4 bytes, big endian) and one
protobuf message. Its document, under `plugins.documents.disk-space` of the agent's settings: {"percent": 90, "every_s": 60}.
docs/plugins.md shows how it is signed and installed.
"""

import json
import os
import select
import socket
import struct

MASTER = socket.socket(fileno=3)


# A protobuf message is a row of fields: a key (number << 3 | wire type), then a varint (type 0) or a length and bytes (type 2).
def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(message):
    """Yields the number and the value of each field of a message."""
    at = 0

    def read_varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        key = read_varint()
        value = read_varint()
        if key & 7 == 2:
            value, at = message[at : at + value], at + value
        yield key >> 3, value


def send(frame):
    MASTER.sendall(struct.pack(">I", len(frame)) + frame)


def report(topic, values):
    told = b"".join(field(2, field(1, name) + field(2, value)) for name, value in values.items())
    send(field(17, field(1, field(1, topic) + told)))


def receive():
    """The next frame of the master; ends the plug-in where the master has closed."""
    frame = b""
    wanted = 4
    while len(frame) < wanted:
        part = MASTER.recv(wanted - len(frame))
        if not part:
            raise SystemExit(0)
        frame += part
        if len(frame) == 4 and wanted == 4:
            wanted += struct.unpack(">I", frame)[0]
    return frame[4:]


def configured(frame, settings):
    for number, configure in fields(frame):
        if number == 1:
            document = dict(fields(configure)).get(2, b"{}")
            settings.update(json.loads(document))


def nearly_full(percent):
    seen = set()
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            device, point = line.split(" ")[:2]
            if not device.startswith("/") or device in seen:
                continue
            seen.add(device)
            point = point.encode().decode("unicode_escape")
            try:
                space = os.statvfs(point)
            except OSError:
                continue
            used = 100 - 100 * space.f_bavail // max(space.f_blocks, 1)
            if used >= percent:
                yield {"device": device, "mount": point, "used_percent": str(used)}


def main():
    send(field(16, field(1, 1) + field(2, "1.0")))  # hello, protocol 1
    settings = {"percent": 90, "every_s": 60}
    told = set()
    while True:
        configured(receive(), settings)
        # Until the master says something else.
        while not select.select([MASTER], [], [], 0)[0]:
            full = list(nearly_full(settings["percent"]))
            for found in full:
                if found["mount"] not in told:
                    report("nearly_full", found)
            told = {found["mount"] for found in full}
            select.select([MASTER], [], [], settings["every_s"])


if __name__ == "__main__":
    main()
