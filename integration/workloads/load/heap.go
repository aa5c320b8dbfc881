package main

import (
	"fmt"
	"math/rand/v2"
)

// The heap's live part: so many lists of so many pieces, about 60 MiB.
const (
	lists  = 2000
	pieces = 60
)

// piece is a part of a list. Its words follow from the list's number and its own.
type piece struct {
	next  *piece
	words [63]uint64
}

// heap replaces random lists by new ones as long as goOn says so, so that all of the old ones are
// garbage. It checks each list before it drops it.
func heap(m *meter, goOn func() bool) error {
	all := make([]*piece, lists)
	for i := range all {
		all[i] = listOf(i)
		m.wrote()
	}
	m.ready()
	for goOn() {
		i := rand.IntN(lists)
		if err := checkList(i, all[i]); err != nil {
			return err
		}
		all[i] = listOf(i)
		m.wrote()
	}
	return nil
}

func listOf(number int) *piece {
	var first *piece
	for n := range pieces {
		p := &piece{next: first}
		for k := range p.words {
			p.words[k] = word(number, n, k)
		}
		first = p
	}
	return first
}

func word(number, n, k int) uint64 {
	return uint64(number)<<40 ^ uint64(n)<<20 ^ uint64(k)*0x9e3779b97f4a7c15
}

// checkList tells what of a list is not as it was made.
func checkList(number int, p *piece) error {
	for n := pieces - 1; n >= 0; n, p = n-1, p.next {
		if p == nil {
			return fmt.Errorf("list %d ends at piece %d", number, n)
		}
		for k, w := range p.words {
			if w != word(number, n, k) {
				return fmt.Errorf("list %d, piece %d, word %d is %#x", number, n, k, w)
			}
		}
	}
	return nil
}
