package guestkernel

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	noteXenPhys32Entry = 18
	noteDigest         = 1
)

type note struct {
	owner string
	kind  uint32
	desc  []byte
}

// notes reads every note of the file's PT_NOTE segments, failing the test on anything malformed.
func notes(t *testing.T, file *elf.File) []note {
	t.Helper()
	var found []note
	for _, prog := range file.Progs {
		if prog.Type != elf.PT_NOTE {
			continue
		}
		data := make([]byte, prog.Filesz)
		_, err := prog.ReadAt(data, 0)
		require.NoError(t, err)
		for len(data) > 0 {
			require.GreaterOrEqual(t, len(data), 12)
			nameSize := int(binary.LittleEndian.Uint32(data))
			descSize := int(binary.LittleEndian.Uint32(data[4:]))
			nameEnd, descStart := 12+nameSize, 12+(nameSize+3)&^3
			next := descStart + (descSize+3)&^3
			require.GreaterOrEqual(t, len(data), next)
			found = append(found, note{
				owner: string(bytes.TrimRight(data[12:nameEnd], "\x00")),
				kind:  binary.LittleEndian.Uint32(data[8:]),
				desc:  data[descStart : descStart+descSize],
			})
			data = data[next:]
		}
	}
	return found
}

func findNote(t *testing.T, file *elf.File, owner string, kind uint32) []byte {
	t.Helper()
	all := notes(t, file)
	i := slices.IndexFunc(all, func(n note) bool { return n.owner == owner && n.kind == kind })
	require.GreaterOrEqual(t, i, 0, "no %s note of type %d", owner, kind)
	return all[i].desc
}

func parse(t *testing.T) *elf.File {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(ELF))
	require.NoError(t, err)
	return file
}

func TestIsBootableByPVH(t *testing.T) {
	file := parse(t)
	require.Equal(t, elf.ELFCLASS64, file.Class)
	require.Equal(t, elf.EM_X86_64, file.Machine)
	require.Equal(t, elf.ET_EXEC, file.Type)

	// Eight bytes, although the entry is 32-bit, because QEMU reads a word of the ELF's class.
	desc := findNote(t, file, "Xen", noteXenPhys32Entry)
	require.Len(t, desc, 8)
	entry := binary.LittleEndian.Uint64(desc)
	require.Equal(t, file.Entry, entry)
	inside := slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool {
		return p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Paddr <= entry &&
			entry < p.Paddr+p.Filesz
	})
	require.True(t, inside, "entry %#x lies in no executable segment", entry)
}

func TestSegmentsFitBelow8MiB(t *testing.T) {
	var end uint64 = 1 << 20
	for _, prog := range parse(t).Progs {
		if prog.Type != elf.PT_LOAD {
			continue
		}
		require.Equal(t, prog.Vaddr, prog.Paddr, "the guest boots with paging off")
		require.GreaterOrEqual(t, prog.Paddr, end, "segments start at 1 MiB and do not overlap")
		end = prog.Paddr + prog.Memsz
	}
	require.Greater(t, end, uint64(1<<20), "no segment")
	require.LessOrEqual(t, end, uint64(8<<20))
}

func TestWasBuiltFromTheseSources(t *testing.T) {
	recorded := findNote(t, parse(t), "taskguide", noteDigest)
	require.Equal(t, sourcesDigest(t), string(recorded),
		"guest.elf was built from other sources: run make -C guestkernel and commit it")
}

// sourcesDigest does what src/build.mk does: SHA-256 over the sha256sum listing of all inputs,
// sorted by path, tag.h last.
func sourcesDigest(t *testing.T) string {
	t.Helper()
	var inputs []string
	for _, pattern := range []string{"*.h", "*.ld", "*.mk", "cpl0/*", "cpl3/*"} {
		paths, err := filepath.Glob(filepath.Join("src", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		inputs = append(inputs, paths...)
	}
	for i, path := range inputs {
		inputs[i] = strings.TrimPrefix(filepath.ToSlash(path), "src/")
	}
	slices.Sort(inputs)
	inputs = append(inputs, "../../tagging/include/tag.h")
	listing := sha256.New()
	for _, path := range inputs {
		content, err := os.ReadFile(filepath.Join("src", path))
		require.NoError(t, err)
		_, err = fmt.Fprintf(listing, "%x  %s\n", sha256.Sum256(content), path)
		require.NoError(t, err)
	}
	return fmt.Sprintf("%x", listing.Sum(nil))
}
