"""A network of one's own with loopback and a way out that leads nowhere and writes down who takes it.

``python airtight.py SEEN`` must run in new user, network and mount namespaces (`inside` makes them). It says "ready",
and until it is ended every packet that would leave this machine adds a line to SEEN: to whom, and by which protocol.
Names are asked for from a server outside, so that asking is seen too.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import ipaddress
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROTOCOLS = {6: "tcp", 17: "udp", 1: "icmp"}
HERE = "POLYRANK_TESTED_AIRTIGHT"
"""Set in the environment of what runs in such a network."""
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@functools.cache
def why_not() -> str | None:
    """What this system lacks for it, or None."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"no {tool} here"
    probe = ["unshare", "--map-root-user", "--net", "--mount", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no namespaces here: {done.stderr.strip()}"
    return None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "no /dev/net/tun here"


@contextlib.contextmanager
def inside(seen: Path) -> Iterator[list[str]]:
    """What to put before a command, so that it runs there."""
    command = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, __file__, str(seen)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            said = holder.stdout.readline().strip()
            if said != "ready":
                raise RuntimeError(f"no airtight network: {said or holder.wait()}")
            yield ["nsenter", f"--target={holder.pid}", "--user", "--preserve-credentials", "--net", "--mount"]
        finally:
            holder.kill()


def main() -> None:
    seen = Path(sys.argv[1])
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    tunnel = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH", b"out", IFF_TUN | IFF_NO_PI))
    with contextlib.suppress(OSError):  # no IPv6 at all: nothing to switch off
        Path("/proc/sys/net/ipv6/conf/out/disable_ipv6").write_text("1", encoding="ascii")
    for line in (
        "link set lo up",
        "addr add 10.77.0.1/24 dev out",
        "link set out up",
        "route add default via 10.77.0.2",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    names = seen.with_name("resolv.conf")
    names.write_text("nameserver 10.77.0.53\noptions timeout:1 attempts:1\n", encoding="ascii")
    subprocess.run(["mount", "--bind", names, os.path.realpath("/etc/resolv.conf")], check=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    with seen.open("a", encoding="utf-8", buffering=1) as file:
        while packet := os.read(tunnel, 65536):
            if packet[0] >> 4 == 4:
                to, protocol = ipaddress.ip_address(packet[16:20]), packet[9]
                port = struct.unpack("!H", packet[22:24])[0] if protocol in (6, 17) else 0
                file.write(f"{to}:{port} {PROTOCOLS.get(protocol, protocol)}\n")
            else:
                file.write(f"{ipaddress.ip_address(packet[24:40])} ipv6\n")


if __name__ == "__main__":
    main()
