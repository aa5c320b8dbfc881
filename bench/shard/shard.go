// Package shard divides what is to be run among machines, by number.
package shard

import (
	"fmt"
	"strconv"
	"strings"
)

// Shard is a part of a run: every Of-th piece, from piece Index on. The zero Shard is the whole
// run.
type Shard struct {
	Index int `json:"index"` // from 1
	Of    int `json:"of"`
}

// most bounds what a mistyped number can ask for.
const most = 10000

// Parse reads I/N.
func Parse(s string) (Shard, error) {
	first, second, _ := strings.Cut(s, "/")
	i, errI := strconv.Atoi(first)
	n, errN := strconv.Atoi(second)
	if errI != nil || errN != nil || i < 1 || i > n || n > most {
		return Shard{}, fmt.Errorf("%q: use I/N with I from 1 to N, as in 2/8, and N to %d", s,
			most)
	}
	return Shard{i, n}, nil
}

func (s Shard) String() string { return fmt.Sprintf("%d/%d", s.Index, s.Of) }

// Has tells whether the shard has a piece of the whole, numbered from 0.
func (s Shard) Has(piece int) bool { return s.Of == 0 || piece%s.Of == s.Index-1 }

// Valid tells whether a shard that was read from a file is one.
func (s Shard) Valid() bool {
	return s == Shard{} || s.Index >= 1 && s.Index <= s.Of && s.Of <= most
}
