package integration

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/control"
	"taskguide/integration/need"
)

// failures is the line of the log that counts a disk's failed requests.
var failures = regexp.MustCompile(`failed_requests=([0-9]+)`)

// TestFullDisk: a disk whose file has no room is an error to the guest, which tries again. The log
// says once that it begins, and once how many requests failed. Once there is room, it is over.
func TestFullDisk(t *testing.T) {
	b := newBox(t)
	small := b.path("small")
	need.SmallFileSystem(t, small, 256<<10)
	disk := b.bigImage("small/a.img")
	g := &guest{}
	p := b.run(g, "vm", b.writer(disk+",cache=host")...)
	awaitErrors(b, g, 50)
	require.Greater(t, journal("e", g)[0], 10)
	p.says("no space left on device") // the log comes by another pipe than the guest's lines
	log := p.stderr.String()
	require.Equal(t, 1, strings.Count(log, "disk "+disk), log)
	require.Contains(t, log, "requests fail, as the guest is told")

	require.NoError(t, unix.Mount("", small, "", unix.MS_REMOUNT, "size=256M"))
	writes(b, 100, g)
	p.await("calm", func(control.VM) bool {
		return strings.Contains(p.stderr.String(), "it works again")
	})
	errors := len(journal("e", g))
	p.kill()
	p.wait()
	log = p.stderr.String()
	require.Equal(t, 2, strings.Count(log, "disk "+disk), log)
	require.Equal(t, strconv.Itoa(errors), failures.FindStringSubmatch(log)[1])
	require.Equal(t, 2, strings.Count(strings.TrimPrefix(log, before(log, "disk "+disk)), "\n"),
		"these two lines, and nothing else: %s", log)
	nothingLost(b, disk, g)
}

// awaitErrors waits until a writer has met n errors of its disk.
func awaitErrors(b *box, g *guest, n int) {
	b.t.Helper()
	for len(journal("e", g)) < n {
		require.NoError(b.t, b.ctx.Err(), "its disk does not fail")
		time.Sleep(20 * time.Millisecond)
	}
}

// before returns the lines of a log before the first one with a text.
func before(log, text string) string {
	at := strings.Index(log, text)
	return log[:strings.LastIndexByte(log[:at], '\n')+1]
}

// TestFailingDisk: the same with a block device that fails, whether the host's cache is between the
// guest and it or not. The end of the VM ends it.
func TestFailingDisk(t *testing.T) {
	for cache, why := range map[string]string{
		"host":   "input/output error", // what the host could not write, at the guest's flush
		"direct": "no space left on device",
	} {
		t.Run(cache, func(t *testing.T) {
			b := newBox(t)
			need.SmallFileSystem(t, b.path("small"), 64<<10)
			file := b.bigImage("small/a.img")
			device := need.LoopDevice(t, file)
			g := &guest{}
			p := b.run(g, "vm", b.writer(device+",cache="+cache)...)
			awaitErrors(b, g, 50)
			b.ok("stop", "vm")
			require.Equal(t, 0, p.wait())
			log := p.stderr.String()
			require.Equal(t, 2, strings.Count(log, "disk "+device), log)
			require.Contains(t, log, "requests fail, as the guest is told")
			require.Contains(t, log, why)
			require.Contains(t, log, "it is closed")
			counted, err := strconv.Atoi(failures.FindStringSubmatch(log)[1])
			require.NoError(t, err)
			require.GreaterOrEqual(t, counted, len(journal("e", g)))
			require.Empty(t, journal("s", g))
			require.NoError(t, os.Truncate(file, 0)) // room for the loop device's end
		})
	}
}
