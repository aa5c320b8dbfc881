package simrun

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of a comparison. All others follow from FileName.
const (
	FileName    = "simulation.json.gz"
	MovesName   = "moves.csv"
	RowsName    = "rows.csv"
	SummaryName = "summary.json"
)

// format is the version of FileName's.
const format = 1

// mostBytes bounds what a file may unpack to.
const mostBytes = 4 << 30

// keptResult is a Result as FileName has it, with its moves.
type keptResult struct {
	Result
	Moves []EntrantMove `json:"moves"`
}

// kept is a Comparison as FileName has it.
type kept struct {
	Comparison
	Results []keptResult `json:"results"`
}

// Save writes the comparison into a folder, which must be new or empty. FileName comes last: where
// it is, the rest is, too.
func (c Comparison) Save(folder string) error {
	if err := Vacant(folder); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	write := map[string]func(io.Writer) error{
		MovesName: c.writeMoves, RowsName: c.writeRows, SummaryName: c.writeSummary,
	}
	if c.Map != nil {
		write[MapName] = c.writeMap
	}
	if c.isSweep() {
		write[SweepName] = c.writeSweep
	}
	for name, f := range write {
		if err := writeFile(filepath.Join(folder, name), f); err != nil {
			return err
		}
	}
	if c.Map != nil {
		if err := c.drawMap(folder); err != nil {
			return err
		}
	}
	path := filepath.Join(folder, FileName)
	if err := writeFile(path+".new", c.encode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Vacant refuses a folder for results that has something in it. One that is not there is good.
func Vacant(folder string) error {
	inside, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil && len(inside) > 0:
		return fmt.Errorf("%s is not empty: name another folder", folder)
	}
	return err
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func (c Comparison) encode(w io.Writer) error {
	k := kept{Comparison: c, Results: []keptResult{}}
	for _, r := range c.Results {
		k.Results = append(k.Results, keptResult{r, r.Moves})
	}
	zip := gzip.NewWriter(w)
	return errors.Join(json.NewEncoder(zip).Encode(k), zip.Close())
}

func (c Comparison) writeSummary(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if c.Map != nil {
		return e.Encode(c.MapSummary())
	}
	return e.Encode(c.Results)
}

// Is tells whether a folder has a simulation in it.
func Is(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, FileName))
	return err == nil
}

// Open reads the comparison in a folder.
func Open(folder string) (Comparison, error) {
	f, err := os.Open(filepath.Join(folder, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return Comparison{}, fmt.Errorf("%s holds no simulation: %s is missing", folder, FileName)
	}
	if err != nil {
		return Comparison{}, err
	}
	defer f.Close()
	c, err := decode(f)
	if err != nil {
		return c, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return c, nil
}

// errFile is of a file that this version does not write.
var errFile = errors.New("no simulation of this version")

// decode reads what encode writes, and is strict.
func decode(r io.Reader) (Comparison, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return Comparison{}, fmt.Errorf("%w: %w", errFile, err)
	}
	limited := &io.LimitedReader{R: zip, N: mostBytes}
	d := json.NewDecoder(limited)
	d.DisallowUnknownFields()
	var k kept
	if err := d.Decode(&k); err != nil {
		return Comparison{}, fmt.Errorf("%w: %w", errFile, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Comparison{}, fmt.Errorf("%w: there is something behind it", errFile)
	}
	c := k.Comparison
	c.Results = nil
	for _, r := range k.Results {
		r.Result.Moves = r.Moves
		c.Results = append(c.Results, r.Result)
	}
	return c, c.check()
}

// check refuses what Run and Join do not make.
func (c Comparison) check() error {
	joined := c.Shard.Index == 0 && c.Shard.Of > 0 && len(c.Parts) > 0
	switch {
	case c.Format != format:
		return fmt.Errorf("%w: its format is %d", errFile, c.Format)
	case !joined && (!c.Shard.Valid() || len(c.Parts) > 0):
		return fmt.Errorf("%w: part %v", errFile, c.Shard)
	case c.Moments < 1:
		return fmt.Errorf("%w: %d moments", errFile, c.Moments)
	}
	for _, r := range c.Results {
		if c.Map != nil && r.Point == nil {
			return fmt.Errorf("%w: a cell that is on no map", errFile)
		}
		taken := map[[2]int]bool{}
		for _, m := range r.Moves {
			at := [2]int{m.Row, m.Moment}
			inside := m.Row >= 0 && m.Row < len(r.Rows) && m.Moment >= 0 && m.Moment < c.Moments
			if !inside || taken[at] {
				return fmt.Errorf("%w: a move of row %d at moment %d", errFile, m.Row, m.Moment)
			}
			taken[at] = true
		}
	}
	if c.Map != nil {
		return c.Map.check(c)
	}
	return nil
}
