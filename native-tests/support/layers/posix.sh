#!/bin/sh
# Fourth layer, a tree that is packed by GNU tar instead of an image tool: nanoseconds and attributes that image tools drop.
# $1 is an empty directory.
set -eu
mkdir -p "$1/srv/posix"
cd "$1/srv/posix"
echo x >xattr
setfattr -n user.a -v a xattr
setfattr -n trusted.fixture -v t xattr
setfattr -n security.fixture -v s xattr
: >nanoseconds && touch -d '2021-02-03 04:05:06.123456789 UTC' nanoseconds
: >before-epoch && touch -d '1969-12-31 23:59:58.25 UTC' before-epoch
ln -s nanoseconds symlink && touch -h -d '2019-01-02 03:04:05.678 UTC' symlink
mkdir directory && touch -d '2020-02-02 02:02:02.987654321 UTC' directory
mknod device c 5 1 && touch -d '2021-02-03 04:05:06.5 UTC' device
truncate -s 20M sparse && printf end >>sparse
touch -d '2021-02-03 04:05:06.5 UTC' . ..
