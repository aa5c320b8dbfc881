package stockkvm

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// innerModules are what the inner kernel always needs: KVM itself, the virtio-serial port for the
// rig, and a network card.
var innerModules = []string{"kvm-amd", "virtio-pci", "virtio_console", "virtio_net"}

// ScriptModules are what other people's scripts may expect of a host: disks and a file system on
// them, and modules for networks and sockets. The project's suites do without them, because each
// takes time to load.
var ScriptModules = []string{
	"virtio_blk", "crc32c_generic", "ext4", "tun", "bridge", "veth", "vsock",
}

// initScript is /init. It only prepares. Then the agent takes over as process 1, or a shell if the
// kernel command line asks for one. Any failure ends process 1, which panics the kernel, which ends
// QEMU, so the rig sees it at once.
const initScript = `#!/bin/busybox sh
set -e
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /run /root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmp /dev/shm
mount -t devpts pts /dev/pts
for m in $(cat /modules/order); do insmod /modules/$m.ko; done
ip link set lo up
address=
shell=
for word in $(cat /proc/cmdline); do
  case $word in
    stockkvm.address=*) address=${word#*=} ;;
    stockkvm.name=*) hostname ${word#*=} ;;
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

// File is an additional file in an initramfs. A later one replaces an earlier one with the same
// target.
type File struct {
	Source string // on this machine: a regular file, or a link to one
	Target string // absolute path inside

	kind kind
	perm uint32 // permissions, without Source
	data []byte // the content, or a symbolic link's target, without Source
}

type kind int

const (
	sourceFile kind = iota // content and permissions are those of Source
	dataFile               // content is data
	directory              // and no more
	symlink                // to data
)

// Content is a file made of bytes.
func Content(target string, perm fs.FileMode, data []byte) File {
	return File{Target: target, kind: dataFile, perm: uint32(perm.Perm()), data: data}
}

// hostTree returns the inner machine's root file system: busybox, the modules with their load
// order, the agent, and files.
func hostTree(p Packages, agent string, files []File, modules []string) ([]File, error) {
	tree, err := systemTree(p, append(slices.Clone(innerModules), modules...))
	if err != nil {
		return nil, err
	}
	tree = append(tree,
		File{Source: agent, Target: "/agent"},
		Content("/init", 0o755, []byte(initScript)),
		Content("/etc/shrc", 0o644, []byte(shellSetup)),
		Content("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n")))
	return append(tree, files...), nil
}

// systemTree returns what each of our small Linux systems has: busybox, and in /modules the files
// that /modules/order lists in their load order.
func systemTree(p Packages, modules []string) ([]File, error) {
	loaded, err := LoadModules(p.Modules, p.Busybox, modules...)
	if err != nil {
		return nil, err
	}
	tree := []File{{Source: p.Busybox, Target: "/bin/busybox"}}
	for _, d := range []string{"/etc", "/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/mnt"} {
		tree = append(tree, File{Target: d, kind: directory, perm: 0o755})
	}
	var order strings.Builder
	for _, m := range loaded {
		tree = append(tree, Content("/modules/"+m.Name+".ko", 0o644, m.Data))
		fmt.Fprintln(&order, m.Name)
	}
	return append(tree, Content("/modules/order", 0o644, []byte(order.String()))), nil
}

// writeInitramfs writes files as an archive that the kernel unpacks.
func writeInitramfs(w io.Writer, files []File) error {
	c := newCPIOWriter(w)
	dirs := map[string]bool{"/": true}
	addParents := func(target string) {
		// Parents come first, because the kernel's unpacker makes none.
		var missing []string
		for d := path.Dir(target); !dirs[d]; d = path.Dir(d) {
			missing = append(missing, d)
			dirs[d] = true
		}
		for _, d := range slices.Backward(missing) {
			c.Dir(strings.TrimPrefix(d, "/"), 0o755)
		}
	}
	for _, f := range lastOfEach(files) {
		addParents(f.Target)
		if f.kind == directory {
			dirs[f.Target] = true
		}
		if err := f.write(c); err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
	}
	return c.Close()
}

// lastOfEach cleans the targets and drops files that a later one replaces.
func lastOfEach(files []File) []File {
	last := map[string]int{}
	kept := slices.Clone(files)
	for i := range kept {
		kept[i].Target = path.Clean("/" + kept[i].Target)
		last[kept[i].Target] = i
	}
	var unique []File
	for i, f := range kept {
		if last[f.Target] == i && f.Target != "/" {
			unique = append(unique, f)
		}
	}
	return unique
}

func (f File) write(c *cpioWriter) error {
	name := strings.TrimPrefix(f.Target, "/")
	switch f.kind {
	case directory:
		c.Dir(name, f.perm)
	case symlink:
		c.Symlink(name, string(f.data))
	case dataFile:
		c.File(name, f.perm, f.data)
	default:
		info, err := os.Stat(f.Source)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(f.Source)
		if err != nil {
			return err
		}
		c.File(name, uint32(info.Mode().Perm()), data)
	}
	return c.err
}

// Import lists the files that source, a file or a folder, becomes at target. It keeps permissions
// and symbolic links, and makes root the owner. It refuses anything that is neither file, folder
// nor link.
func Import(source, target string) ([]File, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is neither a file nor a folder", source)
		}
		return []File{{Source: source, Target: target}}, nil
	}
	var files []File
	// The final slash: a link to a folder is the folder.
	err = filepath.WalkDir(source+"/", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		f, err := imported(p, path.Join(target, filepath.ToSlash(rel)), d)
		files = append(files, f)
		return err
	})
	return files, err
}

func imported(source, target string, d fs.DirEntry) (File, error) {
	info, err := d.Info()
	if err != nil {
		return File{}, err
	}
	switch {
	case d.IsDir():
		return File{Target: target, kind: directory, perm: uint32(info.Mode().Perm())}, nil
	case d.Type()&fs.ModeSymlink != 0:
		to, err := os.Readlink(source)
		return File{Target: target, kind: symlink, data: []byte(to)}, err
	case d.Type().IsRegular():
		return File{Source: source, Target: target}, nil
	}
	return File{}, fmt.Errorf("%s is neither a file, a folder nor a link", source)
}

// Tree lists the files under dir as files under target, for the test data of a suite. A missing
// directory counts as empty.
func Tree(dir, target string) ([]File, error) {
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return nil, nil
	}
	return Import(dir, target)
}
