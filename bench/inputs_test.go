package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// writeInput writes a file that trials read, and returns its hash.
func writeInput(t *testing.T, path, text string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// TestInputs: every file that trials read is hashed.
func TestInputs(t *testing.T) {
	dir := t.TempDir()
	want := Inputs{}
	for _, name := range []string{"kernel", "initrd", "disk", "rule"} {
		path := filepath.Join(dir, name)
		want[path] = writeInput(t, path, "#!"+name)
	}
	file := filepath.Join(dir, "mine.yaml")
	writeInput(t, file, "guests: [{name: a, cmdline: x, kernel: kernel, initrd: initrd, "+
		"disks: [disk]}]\npolicies: [xen, \"exec:./rule\"]\n")
	c, err := ReadCustom(file)
	require.NoError(t, err)
	inputs, err := newOrder(c.Experiment()).inputs(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, inputs)

	o := newOrder(tagging())
	inputs, err = o.inputs(t.Context())
	require.NoError(t, err)
	require.Empty(t, inputs)
	o.Factors.Kernel = filepath.Join(dir, "missing")
	_, err = o.inputs(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist)

	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = newOrder(c.Experiment()).inputs(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

// TestOccupiedFolderComesFirst: nobody waits for files to be read only to learn that the folder for
// results is not empty.
func TestOccupiedFolderComesFirst(t *testing.T) {
	o := newOrder(tagging())
	o.Factors.Kernel = filepath.Join(t.TempDir(), "missing")
	s := Session{Dir: t.TempDir(), Order: o}
	writeInput(t, filepath.Join(s.Dir, "notes"), "mine")
	_, _, err := s.openStore(t.Context(), &site{connections: &connections{facts: *runHosts(t)}})
	require.ErrorIs(t, err, ErrNotEmpty)
}

// TestLongHashingIsTold: who waits for a large disk to be read knows for what.
func TestLongHashingIsTold(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	writeInput(t, disk, "")
	require.Empty(t, hashingNote([]string{disk}))
	require.NoError(t, os.Truncate(disk, 10<<30))
	require.Equal(t, "hashing 10.0 GiB of kernels, disks and programs",
		hashingNote([]string{disk}))
}

// TestChangedInputIsMixed: a run whose files changed before it was resumed has a banner that names
// them. One that an older build began has no hashes to go by.
func TestChangedInputIsMixed(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "kernel")
	first := writeInput(t, kernel, "first")
	o := newOrder(tagging())
	o.Factors.Kernel = kernel
	s := Session{Dir: filepath.Join(dir, "out"), Order: o}
	there := &site{connections: &connections{facts: *runHosts(t)}}
	open := func() Run {
		t.Helper()
		store, _, err := s.openStore(t.Context(), there)
		require.NoError(t, err)
		require.NoError(t, store.Close())
		run, _, err := Load(s.Dir)
		require.NoError(t, err)
		return run
	}
	require.Equal(t, Inputs{kernel: first}, open().Inputs)
	s.Resume = true
	run := open()
	require.Equal(t, runHosts(t), run.Resumed[0].Hosts)
	_, mixed := mixedBanner(run)
	require.False(t, mixed)

	second := writeInput(t, kernel, "second")
	run = open()
	require.Equal(t, Inputs{kernel: second}, run.Resumed[1].Inputs)
	banner, mixed := mixedBanner(run)
	require.True(t, mixed)
	require.Equal(t, "resumed with a changed "+kernel+
		": the figures are not of one build and the same files on one host", banner.Text)
	run.Inputs = nil
	_, mixed = mixedBanner(run)
	require.False(t, mixed)
}

// TestShardsOfOtherInputs: parts that were measured with other contents of the same files, or with
// files elsewhere, do not make a whole.
func TestShardsOfOtherInputs(t *testing.T) {
	with := func(hash string) func(*Run) {
		return func(r *Run) { r.Inputs = Inputs{"/mine.py": hash} }
	}
	join := func(second func(*Run)) (dir string, err error) {
		dir = runShard(t, 2, 2, second)
		first := runShard(t, 1, 2, with("abc"))
		return dir, Join(filepath.Join(t.TempDir(), "joined"), []string{first, dir})
	}
	for _, same := range []func(*Run){with("abc"), nil} {
		_, err := join(same)
		require.NoError(t, err)
	}
	for _, other := range []func(*Run){
		with("def"),
		func(r *Run) {
			with("abc")(r)
			resumedBy(r.Host)(r)
			r.Resumed[0].Inputs = Inputs{"/mine.py": "def"}
		},
	} {
		dir, err := join(other)
		require.ErrorIs(t, err, errOtherInputs)
		require.ErrorContains(t, err, dir)
		require.ErrorContains(t, err, "/mine.py")
	}
	_, err := join(func(r *Run) { r.Factors.Kernel = "/elsewhere" })
	require.ErrorIs(t, err, errOtherRun)
	require.ErrorContains(t, err, "absolute paths")
}

// TestBuildOfChangedSources: two builds of changed sources are not one build.
func TestBuildOfChangedSources(t *testing.T) {
	program := filepath.Join(t.TempDir(), "vmm")
	name := func(revision, text string) string {
		require.NoError(t, os.WriteFile(program, []byte(text), 0o600))
		return buildName(revision, program)
	}
	require.Equal(t, "abc", name("abc", "one"))
	require.Regexp(t, `^abc\+[0-9a-f]{12}$`, name("abc+", "one"))
	require.Equal(t, name("abc+", "one"), name("abc+", "one"))
	require.NotEqual(t, name("abc+", "one"), name("abc+", "two"))
	require.Equal(t, "abc+", buildName("abc+", ""), "there is no program at this host")
}
