//go:build stockkvm

package linux

import (
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

// packed returns a kernel that a Debian package has in a gzip file.
func packed(t *testing.T, pkg, file, target string) stockkvm.File {
	t.Helper()
	cache, err := stockkvm.CacheDir()
	require.NoError(t, err)
	root, err := stockkvm.FetchPackage(t.Context(), filepath.Join(cache, "stockkvm"), pkg)
	require.NoError(t, err)
	f, err := os.Open(filepath.Join(root, file))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	kernel, err := io.ReadAll(z)
	require.NoError(t, err)
	return stockkvm.Content(target, 0o644, kernel)
}

// TestMultibootKernels boots two kernels of Debian that have a multiboot header, as far as they get
// here. GNU Mach (ELF64) finds its memory and the module, and is moved, verified, on its way to a
// panic: the module is no program for it. Xen (ELF32) finds its memory, the processor, interrupt
// controllers and a timer. Soon after that it wants a CMOS clock, which this machine does not have.
func TestMultibootKernels(t *testing.T) {
	host := startHost(t,
		packed(t, "gnumach-image-1.8-486", "boot/gnumach-1.8-486.gz", "/boot/mach"),
		packed(t, "xen-hypervisor-4.17-amd64", "boot/xen-4.17-amd64.gz", "/boot/xen"))
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()

	run(t, host, "--name", "moved", "--incoming", "unix:/run/moved")
	awaitUp(ctx, t, host, "moved")
	// Some time after its panic it asks for a reset, which must not end it here.
	mach := run(t, host, "--name", "mach", "--memory", "64M", "--kernel", "/boot/mach",
		"--initrd", "/bin/busybox", "--cmdline", "console=com0", "--on-reset", "reboot")
	mach.await(ctx, t, "biosmem: 000000000000100000:000000000004000000, available")
	mach.await(ctx, t, "Loading single multiboot module in compat mode")
	moved(ctx, t, host, "mach", "unix:/run/moved")
	// It would spin, unless it has reset the machine already, which ends it there.
	requireRun(ctx, t, host, "vmm stop --now moved || true")

	xen := run(t, host, "--name", "xen", "--memory", "128M", "--kernel", "/boot/xen",
		"--initrd", "/bin/busybox",
		"--cmdline", "xen no-real-mode com1=115200,8n1 console=com1 cmos-rtc-probe")
	xen.await(ctx, t, "Bootloader: taskguide vmm")
	xen.await(ctx, t, "Command line: no-real-mode com1=115200,8n1 console=com1 cmos-rtc-probe")
	xen.await(ctx, t, "System RAM: 127MB")
	// What follows depends on how soon its timer's interrupts are served.
	xen.await(ctx, t, "ENABLING IO-APIC IRQs")
}
