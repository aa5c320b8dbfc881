package guest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
)

// A file stands in for /dev/mem: what is written to its mapping can be read back.
func TestMMIO(t *testing.T) {
	const base = 8192
	file := filepath.Join(t.TempDir(), "mem")
	mem := make([]byte, base+tagging.MMIOBytes)
	le := binary.LittleEndian
	le.PutUint32(mem[base+tagging.RegID:], tagging.ID)
	le.PutUint32(mem[base+tagging.RegEpoch:], 77)
	require.NoError(t, os.WriteFile(file, mem, 0o600))

	_, err := openMMIO(file, 0)
	require.ErrorIs(t, err, ErrNoPort)
	_, err = openMMIO(file+".missing", 0)
	require.ErrorIs(t, err, os.ErrNotExist)

	tags, err := openMMIO(file, base)
	require.NoError(t, err)
	require.EqualValues(t, 77, tags.Epoch())
	task := tags.Task(0xfedc_ba98)
	task.Enter()
	task.Exit()
	task.Close()
	require.NoError(t, tags.Close())
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, reg := range []uint32{
		tagging.RegRegister, tagging.RegEnter, tagging.RegExit, tagging.RegUnregister,
	} {
		le.PutUint32(mem[base+reg:], 0xfedc_ba98)
	}
	require.Equal(t, mem, got, "these registers were written, nothing else")
}

func TestOpenWithoutPort(t *testing.T) {
	tags, err := Open()
	if err == nil { // these tests may run in a machine that has a tag port
		require.NoError(t, tags.Close())
		return
	}
	require.ErrorIs(t, err, ErrNoPort)
}

// What this machine permits does not matter here. But a page that it gives must be whole, and its
// error must say what is missing.
func TestPinnedPage(t *testing.T) {
	mem, gpa, free, err := pinnedPage()
	if err != nil {
		require.Nil(t, free)
		require.Regexp(t, "io_uring|CAP_SYS_ADMIN|pin|pagemap", err.Error())
		return
	}
	require.Len(t, mem, tagging.PageSize)
	require.NotZero(t, gpa)
	require.Zero(t, gpa%tagging.PageSize)
	again, err := physical(mem)
	require.NoError(t, err)
	require.Equal(t, gpa, again)
	require.NoError(t, free())
}

func TestFastTags(t *testing.T) {
	m, tags := newMachine(t)
	err := tags.FastTags()
	if err != nil {
		require.ErrorContains(t, err, "fast tags: ")
		return
	}
	require.NoError(t, tags.FastTags(), "again does nothing")
	require.EqualValues(t, 2, m.writes.Load())
	task := tags.Task(1)
	require.True(t, task.Fast())
	task.Close()
	require.NoError(t, tags.Close())
	require.EqualValues(t, 2+2+2, m.writes.Load())
	require.Nil(t, tags.page)
}
