"""An RTSP server that this project did not write: GStreamer's. Run by the system's Python, which knows `gi`.

    /usr/bin/python3 gst_server.py [--user NAME --password SECRET] [--tls CERT KEY] NAME=FILE.mp4:CODEC ...

CODEC is h264, h265 or jpeg. Each client gets its own play of the file, from its beginning, in real time, and the end of
the stream at its end. Prints the port when it listens, and ends when its standard input is closed.
"""

from __future__ import annotations

import argparse
import sys

import gi

for library in ("Gst", "GstRtsp", "GstRtspServer"):
    gi.require_version(library, "1.0")

from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PAYLOADERS = {
    "h264": "rtph264pay config-interval=1",
    "h265": "h265parse ! rtph265pay config-interval=1",
    "jpeg": "rtpjpegpay",
}
ROLE = "viewer"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mounts", nargs="+")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    parser.add_argument("--tls", nargs=2)
    options = parser.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    if options.user or options.tls:
        server.set_auth(make_auth(options))
    for mount in options.mounts:
        name, _, rest = mount.partition("=")
        path, _, codec = rest.rpartition(":")
        server.get_mount_points().add_factory(f"/{name}", make_factory(path, codec))
    if not server.attach(None):
        sys.exit("the server cannot listen")
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()

    loop = GLib.MainLoop()
    GLib.io_add_watch(0, GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP | GLib.IOCondition.IN, lambda *_: loop.quit())
    loop.run()


def make_factory(path: str, codec: str) -> GstRtspServer.RTSPMediaFactory:
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f'( filesrc location="{path}" ! qtdemux ! queue ! {PAYLOADERS[codec]} name=pay0 pt=96 )')
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role(ROLE, permission, True)
    factory.set_permissions(permissions)
    return factory


def make_auth(options: argparse.Namespace) -> GstRtspServer.RTSPAuth:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    if options.tls:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*options.tls))
    if options.user:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(options.user, options.password, token)
    else:
        auth.set_default_token(token)
    return auth


if __name__ == "__main__":
    main()
