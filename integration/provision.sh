#!/bin/sh
# Makes a bare Debian 12 with systemd into a test host. Run as root by the QEMU image (harness/image.py, in its chroot)
# and by the Vagrantfile; the arguments go to `pip install`, which fills the virtual environment in /opt/lithos.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends \
  bubblewrap crun curl dbus iproute2 kmod nodejs procps python3 python3-venv
python3 -m venv /opt/lithos
/opt/lithos/bin/pip install --quiet --disable-pip-version-check "$@"
ln -sf /opt/lithos/bin/lithos /usr/local/bin/lithos
# The tests change cgroups of the host they run on: conftest.py refuses a host without this file.
echo 'A host made for the integration tests of lithos-runner by provision.sh.' > /etc/lithos-test-host
