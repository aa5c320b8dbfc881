package stockkvm

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// innerModules are what the inner kernel needs: KVM itself, the virtio-serial port
// that the rig speaks through, and a network card.
var innerModules = []string{"kvm-amd", "virtio-pci", "virtio_console", "virtio_net"}

// initScript is /init. It only prepares; then the agent takes over as process 1,
// or a shell where the kernel command line asks for one. Any failure ends process
// 1, which panics the kernel, which ends QEMU: the rig sees it at once.
const initScript = `#!/bin/busybox sh
set -e
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /run /root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmp /dev/shm
mount -t tmpfs tmp /tmp
mount -t devpts pts /dev/pts
for m in $(cat /modules/order); do insmod /modules/$m.ko; done
ip link set lo up
address=
shell=
for word in $(cat /proc/cmdline); do
  case $word in
    stockkvm.address=*) address=${word#*=} ;;
    stockkvm.shell) shell=yes ;;
  esac
done
if [ -n "$address" ]; then
  ip link set eth0 up
  ip address add $address dev eth0
fi
export PATH=/bin HOME=/root TMPDIR=/tmp XDG_RUNTIME_DIR=/run
cd /root
if [ -n "$shell" ]; then
  echo
  echo "A stock-KVM host under software emulation: $(uname -r), $(ls /dev/kvm), and vmm in it."
  echo "'exit' ends it; ctrl-a x kills it."
  ENV=/etc/shrc setsid cttyhack sh || true
  poweroff -f
fi
exec /agent
`

const shellSetup = "PS1='stock-kvm:\\w# '\nexport PS1\n"

// File is one file of the initramfs besides the fixed ones.
type File struct {
	Source string // on this machine
	Target string // absolute path inside
}

// writeInitramfs writes the inner machine's root file system: busybox, the modules
// with their load order, the agent, and files.
func writeInitramfs(w io.Writer, p Packages, agent string, files []File) error {
	modules, err := LoadModules(p.Modules, p.Busybox, innerModules...)
	if err != nil {
		return err
	}
	c := newCPIOWriter(w)
	dirs := map[string]bool{}
	addDir := func(dir string) {
		// Parents first: the kernel's unpacker makes none.
		var missing []string
		for d := strings.TrimPrefix(path.Clean(dir), "/"); d != "" && d != "." && !dirs[d]; d = path.Dir(d) {
			missing = append(missing, d)
			dirs[d] = true
		}
		for _, d := range slices.Backward(missing) {
			c.Dir(d)
		}
	}
	for _, d := range []string{"bin", "etc", "modules", "proc", "sys", "dev", "tmp", "run", "root"} {
		addDir(d)
	}
	files = append([]File{{p.Busybox, "/bin/busybox"}, {agent, "/agent"}}, files...)
	for _, f := range files {
		data, err := os.ReadFile(f.Source)
		if err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
		info, err := os.Stat(f.Source)
		if err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
		addDir(path.Dir(f.Target))
		c.File(strings.TrimPrefix(f.Target, "/"), uint32(info.Mode().Perm()), data)
	}
	c.File("init", 0o755, []byte(initScript))
	c.File("etc/shrc", 0o644, []byte(shellSetup))
	var order strings.Builder
	for _, m := range modules {
		c.File("modules/"+m.Name+".ko", 0o644, m.Data)
		fmt.Fprintln(&order, m.Name)
	}
	c.File("modules/order", 0o644, []byte(order.String()))
	return c.Close()
}

// Tree lists the files under dir as files under target, for the test data of a
// suite. A directory that is not there is an empty one.
func Tree(dir, target string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) && p == dir {
			return filepath.SkipAll
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		files = append(files, File{Source: p, Target: path.Join(target, filepath.ToSlash(rel))})
		return err
	})
	return files, err
}
