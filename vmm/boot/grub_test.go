//go:build grub

package boot

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// TestGRUB loads the PVH image of Debian's GRUB, an ELF32 file that GRUB_PVH names. It was linked
// by others: two segments, and a note outside of them.
func TestGRUB(t *testing.T) {
	file, err := os.ReadFile(os.Getenv("GRUB_PVH"))
	require.NoError(t, err, "make test-grub gives GRUB_PVH")
	kernel, err := Parse(file)
	require.NoError(t, err)
	require.False(t, kernel.Linux())
	hardware := Hardware{RAM: memory.Layout(64 << 20), CPUs: 1}
	image, err := Load(kernel, hardware, Payload{Initrd: []byte("an initrd"), Cmdline: "quiet"})
	require.NoError(t, err)
	requireWithin(t, hardware, image)
	requireApart(t, image)
	require.Equal(t, uint64(1<<20), image.Registers.RIP, "GRUB begins where it is loaded")
	at := func(c Content) bool { return c.GPA == 1<<20 }
	require.True(t, slices.ContainsFunc(image.Contents, at))
	require.False(t, image.Registers.LongMode())
}
