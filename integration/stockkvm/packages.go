package stockkvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelPackage is Debian's kernel for virtual machines: small, serial console
// and virtio inside, KVM as modules. It is a meta package; the kernel itself is
// the linux-image-*-cloud-amd64 that it depends on.
const kernelPackage = "linux-image-cloud-amd64"

const busyboxPackage = "busybox-static"

// ErrPackages is returned if the packages for the emulated host could not be fetched.
var ErrPackages = errors.New("packages for the emulated host")

// Packages are the files that an emulated host is made of, unpacked from
// distribution packages. Nothing is installed into the system.
type Packages struct {
	Kernel  string // bzImage
	Modules string // lib/modules/VERSION
	Busybox string // static binary
}

// CacheDir returns where packages stay between runs: $VMM_CACHE, or vmm in the
// user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("VMM_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w; set VMM_CACHE to a directory", err)
	}
	return filepath.Join(dir, "vmm"), nil
}

// FetchPackages returns the unpacked packages under dir and fetches those that are missing. It
// prefers packages that were put into dir/debs by hand, for machines without apt.
func FetchPackages(ctx context.Context, dir string) (Packages, error) {
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Packages{}, fmt.Errorf("%w: %w", ErrPackages, err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return Packages{}, fmt.Errorf("%w: %w", ErrPackages, err)
	}
	defer unlock()
	if p, err := findPackages(root); err == nil {
		return p, nil
	}
	if err := fetchDebs(ctx, dir); err != nil {
		return Packages{}, fmt.Errorf("%w: %w", ErrPackages, err)
	}
	if err := unpackDebs(ctx, filepath.Join(dir, "debs"), root); err != nil {
		return Packages{}, fmt.Errorf("%w: %w", ErrPackages, err)
	}
	p, err := findPackages(root)
	if err != nil {
		return Packages{}, fmt.Errorf("%w: %w; remove %s and run again", ErrPackages, err, dir)
	}
	return p, nil
}

// FetchPackage returns a folder under dir with the files of one more Debian package, and fetches it
// if it is missing.
func FetchPackage(ctx context.Context, dir, name string) (string, error) {
	return fetchMore(ctx, dir, name, func(ctx context.Context, a *apt, debs string) error {
		_, err := a.run(ctx, debs, "apt-get", "download", "-qq", name)
		return err
	})
}

// FetchWithDependencies returns a folder under dir with the files of Debian packages and of all
// that they depend on, and fetches them if they are missing. No script of a package runs, so
// nothing is configured.
func FetchWithDependencies(ctx context.Context, dir string, names ...string) (string, error) {
	name := strings.Join(names, "+")
	return fetchMore(ctx, dir, name, func(ctx context.Context, a *apt, debs string) error {
		return a.downloadAll(ctx, debs, names)
	})
}

// fetcher makes apt fetch packages into debs.
type fetcher func(ctx context.Context, a *apt, debs string) error

// fetchMore returns the folder dir/more/name. If it is missing, it is unpacked from the packages in
// the folder beside it, and if that has none, get fetches them.
func fetchMore(ctx context.Context, dir, name string, get fetcher) (string, error) {
	root := filepath.Join(dir, "more", name)
	debs := root + ".debs"
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return "", fmt.Errorf("%w: %w", ErrPackages, err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPackages, err)
	}
	defer unlock()
	if isDir(root) {
		return root, nil
	}
	if !anyFile(debs, "*.deb") {
		if err := download(ctx, dir, debs, get); err != nil {
			return "", fmt.Errorf("%w: %w: put the .deb files of %s into %s", ErrPackages, err,
				name, debs)
		}
	}
	if err := unpackDebs(ctx, debs, root); err != nil {
		return "", fmt.Errorf("%w: %w", ErrPackages, err)
	}
	return root, nil
}

// download makes apt, whose state is in dir, fetch packages into debs. It fetches into a folder
// beside debs first, so that an interrupted run leaves no part of them that looks whole.
func download(ctx context.Context, dir, debs string, get fetcher) error {
	a, err := newApt(dir)
	if err != nil {
		return err
	}
	partial := debs + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(partial, "partial"), 0o755); err != nil {
		return err
	}
	if _, err := a.run(ctx, partial, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	if err := get(ctx, a, partial); err != nil {
		return err
	}
	if err := os.RemoveAll(debs); err != nil {
		return err
	}
	return os.Rename(partial, debs)
}

// lockDir keeps a second rig from fetching into the same cache at the same time.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

func findPackages(root string) (Packages, error) {
	kernels, _ := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if len(kernels) == 0 {
		return Packages{}, fmt.Errorf("no kernel in %s", root)
	}
	kernel := slices.Max(kernels)
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	p := Packages{Kernel: kernel}
	for _, lib := range []string{"lib", "usr/lib"} {
		if dir := filepath.Join(root, lib, "modules", version); isDir(dir) {
			p.Modules = dir
		}
	}
	if p.Modules == "" {
		return Packages{}, fmt.Errorf("no modules of kernel %s in %s", version, root)
	}
	for _, bin := range []string{"bin", "usr/bin"} {
		if file := filepath.Join(root, bin, "busybox"); isFile(file) {
			p.Busybox = file
		}
	}
	if p.Busybox == "" {
		return Packages{}, fmt.Errorf("no busybox in %s", root)
	}
	return p, nil
}

func isDir(path string) bool { info, err := os.Stat(path); return err == nil && info.IsDir() }
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// fetchDebs downloads the packages into dir/debs with its own apt state, so that it needs neither
// root nor up-to-date package lists on the system.
func fetchDebs(ctx context.Context, dir string) error {
	debs := filepath.Join(dir, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	needKernel := !anyFile(debs, "linux-image-*cloud-amd64*.deb")
	needBusybox := !anyFile(debs, busyboxPackage+"_*.deb")
	if !needKernel && !needBusybox {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("apt-get is not here; put the .deb files of %s (the package it depends "+
			"on) and %s, from Debian, into %s",
			kernelPackage, busyboxPackage, debs)
	}
	a, err := newApt(dir)
	if err != nil {
		return err
	}
	if _, err := a.run(ctx, debs, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	var names []string
	if needKernel {
		name, err := a.kernelName(ctx)
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	if needBusybox {
		names = append(names, busyboxPackage)
	}
	_, err = a.run(ctx, debs, "apt-get", append([]string{"download", "-qq"}, names...)...)
	return err
}

func anyFile(dir, pattern string) bool {
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	return len(found) > 0
}

// apt runs apt-get with its own package lists and locks in the cache.
type apt struct{ options []string }

func newApt(dir string) (*apt, error) {
	state := filepath.Join(dir, "apt")
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, sub), 0o755); err != nil {
			return nil, err
		}
	}
	options := []string{
		"-o", "Dir::State::Lists=" + filepath.Join(state, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(state, "cache"),
	}
	if os.Geteuid() == 0 {
		// As root, apt downloads as user _apt, which cannot read a home directory.
		options = append(options, "-o", "APT::Sandbox::User=root")
	}
	return &apt{options}, nil
}

func (a *apt) run(ctx context.Context, dir, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, append(slices.Clone(a.options), args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.Output()
	if err != nil {
		detail := ""
		if exited := (*exec.ExitError)(nil); errors.As(err, &exited) {
			detail = ": " + strings.Join(strings.Fields(string(exited.Stderr)), " ")
		}
		return "", fmt.Errorf("%s %s: %w%s", tool, args[0], err, detail)
	}
	return string(out), nil
}

// downloadAll downloads packages and all that they depend on into debs. apt believes that nothing
// is installed, because the files are for another system than this one.
func (a *apt) downloadAll(ctx context.Context, debs string, names []string) error {
	status := filepath.Join(debs, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return err
	}
	args := []string{
		"install", "--download-only", "--no-install-recommends", "-y", "-qq",
		"-o", "Dir::State::status=" + status,
		"-o", "Dir::Cache::archives=" + debs,
	}
	_, err := a.run(ctx, debs, "apt-get", append(args, names...)...)
	return err
}

// kernelName returns the package that the meta package currently stands for.
func (a *apt) kernelName(ctx context.Context) (string, error) {
	out, err := a.run(ctx, "", "apt-cache", "depends", kernelPackage)
	if err != nil {
		return "", fmt.Errorf("%w; the rig needs Debian's %s: on another distribution put its "+
			".deb file into the cache by hand", err, kernelPackage)
	}
	name, ok := dependedKernel(out)
	if !ok {
		return "",
			fmt.Errorf("%s depends on no kernel image: apt-cache said %q", kernelPackage, out)
	}
	return name, nil
}

// dependedKernel finds the kernel package in the output of apt-cache depends.
func dependedKernel(out string) (string, bool) {
	for line := range strings.Lines(out) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && strings.HasPrefix(name, "linux-image-") {
			return name, true
		}
	}
	return "", false
}

// unpackDebs unpacks every package in debs to root. It unpacks to a folder beside root first, so
// that an interrupted run leaves no partial root that looks whole.
func unpackDebs(ctx context.Context, debs, root string) error {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		return errors.New("dpkg-deb is not here; install the package dpkg")
	}
	files, _ := filepath.Glob(filepath.Join(debs, "*.deb"))
	partial := root + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	for _, deb := range files {
		cmd := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, partial)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s; remove the file and run again", deb, err,
				strings.TrimSpace(stderr.String()))
		}
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	return os.Rename(partial, root)
}
