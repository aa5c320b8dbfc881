package stockkvm

import (
	"bytes"
	"io"
)

// The guest's kernel and initial RAM disk inside a host.
const (
	GuestKernel = "/boot/vmlinuz"
	GuestInitrd = "/boot/initrd"
)

// guestModules are the drivers for a virtual machine's devices, and ext4 for its own disk. Drivers
// that the kernel has built in are not listed, and failover comes with the network card.
var guestModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng", "virtio_balloon",
	"vmw_vsock_virtio_transport", "button", "evdev", "crc32c_generic", "ext4",
}

// guestInit is /init of the guest's initial RAM disk.
const guestInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in $(cat /modules/order); do insmod /modules/$m.ko; done
root= type= mode=ro init=/sbin/init
for word in $(cat /proc/cmdline); do
  case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) type="-t ${word#*=}" ;;
    init=*) init=${word#*=} ;;
    ro|rw) mode=$word ;;
  esac
done
if [ -n "$root" ]; then
  mkdir -p /newroot
  tries=0
  until
    case $root in
      *=*) disk=$(findfs "$root" 2>/dev/null) ;;
      *) disk=$root ;;
    esac
    [ -b "$disk" ]
  do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || break
    sleep 0.1
  done
  if mount $type -o $mode "$disk" /newroot; then
    umount /proc /sys
    mount --move /dev /newroot/dev
    exec switch_root /newroot "$init"
  fi
  echo "initrd: cannot mount root=$root; a shell instead"
fi
cd /root
setsid cttyhack sh
poweroff -f
`

// GuestFiles are Debian's kernel and an initial RAM disk for it, for vmm to run inside a host. The
// RAM disk mounts root= of the command line, or starts a shell on the console without it. It also
// has the files that are given as inside.
func (r *Rig) GuestFiles(inside ...File) ([]File, error) {
	var initrd bytes.Buffer
	if err := r.Packages.WriteGuestInitrd(&initrd, inside...); err != nil {
		return nil, err
	}
	return []File{
		{Source: r.Packages.Kernel, Target: GuestKernel},
		Content(GuestInitrd, 0o644, initrd.Bytes()),
	}, nil
}

// WriteGuestInitrd writes the initial RAM disk of GuestFiles.
func (p Packages) WriteGuestInitrd(w io.Writer, inside ...File) error {
	tree, err := systemTree(p, guestModules)
	if err != nil {
		return err
	}
	tree = append(tree, Content("/init", 0o755, []byte(guestInit)))
	return writeInitramfs(w, append(tree, inside...))
}
