"""What to tell FFmpeg about an address."""

from __future__ import annotations

from sharpose.runtime.sources.options import Kind, SourceOptions

__all__ = ["ffmpeg_options", "kind_of_address", "scheme_of"]

# FFmpeg looks at so much of a stream before it hands out the first packet. It keeps what it has looked at, so this
# costs time at the start and no lag later. (`nobuffer` would throw it away, and the first key frame with it.)
_PROBE = {"analyzeduration": "1000000", "probesize": "1000000"}
_UDP_REORDER = {"max_delay": "200000"}  # µs that a late datagram is waited for
_RTSP = ("rtsp", "rtsps")


def scheme_of(url: str) -> str:
    """The part before `://`, in lower case."""
    return url.partition("://")[0].lower()


def kind_of_address(url: str) -> Kind:
    """What an address stands for. One of `http(s)://` may turn out to be a file when it is opened."""
    return Kind.RTSP if scheme_of(url) in _RTSP else Kind.STREAM


def ffmpeg_options(url: str, options: SourceOptions) -> dict[str, str]:
    """Options of FFmpeg for an address, chosen so that pictures come soon and are new."""
    scheme = scheme_of(url)
    if scheme in _RTSP:
        transport = options.rtsp_transport or "tcp"
        return _PROBE | {"rtsp_transport": transport} | (_UDP_REORDER if transport == "udp" else {})
    if scheme in ("udp", "rtp", "srt"):
        # A full buffer loses datagrams, which a live stream survives.
        return _PROBE | _UDP_REORDER | {"overrun_nonfatal": "1"}
    if scheme.startswith("rtmp"):
        return _PROBE | {"rtmp_live": "live"}
    return {}
