package simrun

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"taskguide/bench/sim"
	"taskguide/dirtylog/trace"
	"taskguide/memory"
)

const pageBytes = memory.PageSize

// Origin says which trace it was.
type Origin struct {
	SHA256 string `json:"sha256"` // of its file
}

// Recorded is the guest of a trace: a file, or the folder that vmm trace has made.
func Recorded(name string, cells []Cell) Subject {
	return Subject{Name: name, Cells: cells, Load: func() (*sim.Trace, Origin, error) {
		text, err := readTrace(name)
		if err != nil {
			return nil, Origin{}, err
		}
		return loaded(text)
	}}
}

// Generated is a guest that nobody recorded.
func Generated(g sim.Synthetic, cells []Cell) Subject {
	return Subject{Name: g.Name, Cells: cells, Load: func() (*sim.Trace, Origin, error) {
		var b bytes.Buffer
		w := trace.NewWriter(&b)
		if err := errors.Join(g.Generate("", w), w.Close()); err != nil {
			return nil, Origin{}, err
		}
		return loaded(b.Bytes())
	}}
}

// Load reads a trace: a file, or the folder that vmm trace has made.
func Load(name string) (*sim.Trace, error) {
	t, _, err := Recorded(name, nil).Load()
	return t, err
}

func loaded(text []byte) (*sim.Trace, Origin, error) {
	t, err := sim.Load(bytes.NewReader(text))
	return t, Origin{hashOf(text)}, err
}

// hashOf is the SHA-256 of a file's text.
func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func readTrace(name string) ([]byte, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, trace.FileName)
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("there is no such trace: name a folder that vmm trace has made")
	}
	return text, err
}
