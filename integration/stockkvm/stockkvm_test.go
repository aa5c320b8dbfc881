package stockkvm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCPIOEntryHasTheKernelsLayout(t *testing.T) {
	var b bytes.Buffer
	c := newCPIOWriter(&b)
	c.File("ab", 0o755, []byte("xyz"))
	require.NoError(t, c.Close())
	// Header of 110 bytes, name with NUL to 116 (a multiple of 4 already: 113
	// and three of padding), data and one byte of padding.
	want := "070701" + "00000001" + "000081ED" + "00000000" + "00000000" + "00000001" + "00000000" +
		"00000003" + "00000000" + "00000000" + "00000000" + "00000000" + "00000003" + "00000000" +
		"ab\x00" + "\x00\x00\x00" + "xyz\x00"
	require.Equal(t, want, b.String()[:len(want)])
	require.Zero(t, b.Len()%4)
	require.Contains(t, b.String()[len(want):], "TRAILER!!!\x00")
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestCPIOReportsFailedWrites(t *testing.T) {
	c := newCPIOWriter(failingWriter{})
	c.Dir("etc")
	require.ErrorContains(t, c.Close(), "disk full")
}

func TestKernelPackageIsFoundInDepends(t *testing.T) {
	name, ok := dependedKernel("linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n  Suggests: linux-doc\n")
	require.True(t, ok)
	require.Equal(t, "linux-image-6.1.0-1-cloud-amd64", name)
	_, ok = dependedKernel("linux-image-cloud-amd64\n")
	require.False(t, ok)
}

func TestMissingAptNamesTheRemedy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	_, err := FetchPackages(context.Background(), dir)
	require.ErrorIs(t, err, ErrPackages)
	require.ErrorContains(t, err, "apt-get is not here")
	require.ErrorContains(t, err, filepath.Join(dir, "debs"))
}

func TestPackagesAlreadyUnpackedNeedNoApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	for _, d := range []string{"root/boot", "root/bin", "root/lib/modules/6.1"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"root/boot/vmlinuz-6.1", "root/bin/busybox"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o755))
	}
	p, err := FetchPackages(context.Background(), dir)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "root/boot/vmlinuz-6.1"), p.Kernel)
}

// collect runs recorded output of a test binary through the collector.
func collect(t *testing.T, output string) (Result, string) {
	t.Helper()
	var progress bytes.Buffer
	c, err := newCollector("s", &progress, io.Discard)
	require.NoError(t, err)
	_, err = io.WriteString(c.in, output)
	require.NoError(t, err)
	var r Result
	require.NoError(t, c.finish(&r))
	return r, progress.String()
}

func TestCollectorCounts(t *testing.T) {
	r, progress := collect(t, "\x16=== RUN   TestA\n\x16=== RUN   TestA/sub\n\x16--- PASS: TestA/sub (0.00s)\n"+
		"\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestB\n    b_test.go:1: broken\n\x16--- FAIL: TestB (0.10s)\n"+
		"\x16=== RUN   TestC\n\x16--- SKIP: TestC (0.00s)\n\x16FAIL\n")
	require.Equal(t, []int{2, 1, 1}, []int{r.Passed, r.Failed, r.Skipped})
	require.Contains(t, progress, "FAIL  s TestB")
	require.Contains(t, progress, "b_test.go:1: broken")
}

func TestCollectorCountsUnfinishedTestAsFailed(t *testing.T) {
	r, progress := collect(t, "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestB\nsome output")
	require.Equal(t, 1, r.Passed)
	require.Equal(t, 1, r.Failed)
	require.Contains(t, progress, "TestB")
}

func TestSummaryIsRedUnlessEverySuiteRanAndPassed(t *testing.T) {
	good := Result{Suite: "a", Passed: 3}
	for name, tc := range map[string]struct {
		results []Result
		ok      bool
		closing string
	}{
		"all pass":         {[]Result{good, good}, true, "6 passed, 0 failed\n"},
		"a test failed":    {[]Result{good, {Suite: "b", Passed: 1, Failed: 1}}, false, "4 passed, 1 failed\n"},
		"suite without it": {[]Result{good, {Suite: "b", Err: ErrNoTests}}, false, "3 passed, 1 failed\n"},
		"only skipped":     {[]Result{{Suite: "b", Skipped: 2}}, false, "0 passed, 0 failed, 2 skipped\n"},
		"nothing ran":      {nil, false, "0 passed, 0 failed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.Equal(t, tc.ok, Summary(&b, tc.results))
			require.Contains(t, b.String(), tc.closing)
		})
	}
}

func TestFailureQuotesThePanic(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "console.log"),
		[]byte("[    1.0] something\r\n[    1.1] Kernel panic - not syncing: sysrq triggered crash\r\n[    1.2] CPU: 0\r\n"), 0o644))
	h := &Host{cfg: HostConfig{Dir: dir}, ended: make(chan struct{})}
	h.stderr.WriteString("qemu: warning: TCG doesn't support requested feature: CPUID.01H\nqemu: bad thing\n")
	close(h.ended)
	err := h.failure(ErrDied, "the port ended")
	require.ErrorIs(t, err, ErrDied)
	require.ErrorContains(t, err, "kernel panic inside: sysrq triggered crash")
	require.ErrorContains(t, err, "bad thing")
	require.NotContains(t, err.Error(), "TCG doesn't support")
	require.ErrorContains(t, err, "CPU: 0")
}

func TestTreeOfMissingFolderIsEmpty(t *testing.T) {
	files, err := Tree(filepath.Join(t.TempDir(), "testdata"), "/x")
	require.NoError(t, err)
	require.Empty(t, files)
}
