#!/bin/sh
# Second layer: every kind of file that image tools carry. $1 is the image's root, with the first layer in it.
set -eu
cd "$1"

# Whiteouts, an opaque directory, and types that change.
rm opt/lower/removed
rm -r opt/gone
rm -r opt/opaque && mkdir opt/opaque && echo new >opt/opaque/new
rm -r opt/becomes-file && echo file >opt/becomes-file
rm opt/becomes-directory && mkdir opt/becomes-directory && echo new >opt/becomes-directory/new

mkdir -p srv/hard/sub
cd srv/hard
echo one >link-a && ln link-a link-b && ln link-a sub/link-c
echo two >pair-a && ln pair-a sub/pair-b
ln -s /etc/passwd absolute && ln absolute absolute-link
ln -s ../../etc/group relative
ln -s nowhere/at/all dangling
ln -s "$(printf 'x%.0s' $(seq 1 4000))" long-target

echo s >setuid && chmod 4755 setuid
echo s >setgid && chmod 2755 setgid
echo 0 >no-mode && chmod 000 no-mode
mkdir sticky && chmod 1777 sticky
mkdir setgid-directory && chmod 2770 setgid-directory

mknod char c 1 3
mknod block b 7 200
mknod big-device c 511 1048575
mkfifo fifo && ln fifo fifo-link

echo x >xattr && setfattr -n user.text -v hello xattr && setfattr -n user.binary -v 0x00ff00fe xattr
mkdir xattr-directory && setfattr -n user.directory -v d xattr-directory
cp /bin/true capability && setcap cap_net_raw+ep capability

: >"$(printf 'n%.0s' $(seq 1 255))"
: >"$(printf 'h\303\251llo \342\234\223')"
: >'with space'
: >"$(printf 'new\nline')"
: >'back\slash'
: >-dash
: >'"quote'
: >'%percent#hash?question'

: >empty
echo small >small
head -c 12000000 /dev/urandom >random
yes 'a line of text' | head -c 9437184 >text
truncate -s 8M zeros
head -c 4194304 /dev/urandom >one-chunk
head -c 4194305 /dev/urandom >one-chunk-and-a-byte

path=deep
for i in $(seq 1 40); do path=$path/d$i; done
mkdir -p $path && echo deep >$path/file

echo owner >owner && chown 4294967294:3000000000 owner
echo owner >owner-of-two-million && chown 1000:2097152 owner-of-two-million

: >epoch && touch -d '1970-01-01 00:00:00 UTC' epoch
: >before-epoch && touch -d '1901-12-14 00:00:00 UTC' before-epoch
: >far-future && touch -d '2100-01-01 00:00:00 UTC' far-future

mkdir many
for i in $(seq 1 1500); do echo $i >many/f$i; done
