package migration

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"taskguide/memory"
	"taskguide/migration/peer"
	"taskguide/transport"
)

// What a digests frame is about, its arg.
const (
	digestAll   uint32 = 0 // RAM and state; in parts: the state
	digestRAM   uint32 = 1 // RAM, before the state is loaded
	digestPages uint32 = 2 // in parts: the pages of one chunk of RAM

	// The pages that the digests of RAM leave out, which the source says first. They are the same
	// that the stop-and-copy has left out, of the same look at the guest's table.
	digestLeftOut uint32 = 3
)

// Two ends that verify compare what the destination has with what the source had. An old
// destination sends one number for RAM and one for the state (sums), so it is only known whether
// they differ. Any other compares part by part (transport.FeatureParts):
//
//	destination                    source
//	                        ◄── the pages to leave out (transport.FeatureLeftOut)
//	a number for each chunk ──►
//	                        ◄── one for all: equal       or: which pages of this chunk?
//	loads the state                                          a number for each page ──►
//	its fingerprint ──────────►
//	                        ◄── its own: both compare
//
// RAM is compared before the state is loaded, because loading makes KVM write to the guest's clock
// pages.

// verifier is the source's side.
type verifier interface {
	// ram compares RAM as far as that can be done before the state is loaded, and then lets the
	// destination load the state.
	ram(ctx context.Context) error
	// state compares the rest, and tells the destination.
	state(ctx context.Context) error
}

func (s *Source) verifier() verifier {
	if s.peer.Terms().Features&transport.FeatureParts != 0 {
		return &parts{s: s}
	}
	return &sums{s: s}
}

// awaitDigests waits for the destination's digests of what it received.
func (s *Source) awaitDigests(ctx context.Context, of uint32) ([]byte, error) {
	r, err := s.peer.Await(ctx, transport.TypeDigests)
	if err == nil && r.Header.Arg != of {
		err = fmt.Errorf("%w: digests of %d where %d were due",
			transport.ErrFrame, r.Header.Arg, of)
	}
	return r.Payload, err
}

func (s *Source) sendDigests(ctx context.Context, of uint32, payload []byte) error {
	if err := s.peer.Send(transport.TypeDigests, of, payload); err != nil {
		return peer.Explain(ctx, err)
	}
	return nil
}

// sums verifies by one number for RAM and one for the state.
type sums struct {
	s   *Source
	own digests
}

// digests sum up a machine that stands still.
type digests struct {
	ram, state uint64
}

func (d digests) bytes() []byte { return packDigests([]uint64{d.ram, d.state}) }

func parseDigests(b []byte) (digests, error) {
	d, err := unpackDigests(b, 2)
	if err != nil {
		return digests{}, err
	}
	return digests{ram: d[0], state: d[1]}, nil
}

// packDigests lays numbers out for the wire; unpackDigests reverses it for a given count.
func packDigests(sums []uint64) []byte {
	b := make([]byte, 0, 8*len(sums))
	for _, sum := range sums {
		b = binary.LittleEndian.AppendUint64(b, sum)
	}
	return b
}

func unpackDigests(b []byte, n int) ([]uint64, error) {
	if len(b) != 8*n {
		return nil, fmt.Errorf("%w: %d bytes of digests", transport.ErrFrame, len(b))
	}
	sums := make([]uint64, n)
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return sums, nil
}

// check compares the digests of this side with those that the other has sent.
func (d digests) check(theirs []byte) error {
	got, err := parseDigests(theirs)
	switch {
	case err != nil:
		return err
	case d.ram != got.ram:
		return fmt.Errorf("%w: RAM at the destination differs", ErrVerify)
	case d.state != got.state:
		return fmt.Errorf("%w: device state at the destination differs", ErrVerify)
	}
	return nil
}

// ram implements [verifier]. This kind of destination asks nothing before it loads the state.
func (v *sums) ram(ctx context.Context) error {
	var err error
	if v.own, err = digestOf(v.s.m); err != nil {
		return err
	}
	_, err = v.s.awaitDigests(ctx, digestRAM)
	return err
}

// state implements [verifier].
func (v *sums) state(ctx context.Context) error {
	theirs, err := v.s.awaitDigests(ctx, digestAll)
	if err != nil {
		return err
	}
	if err := v.own.check(theirs); err != nil {
		return err
	}
	return v.s.sendDigests(ctx, digestAll, v.own.bytes())
}

// digestOf sums up RAM and state, read back from where they live.
func digestOf(m Machine) (digests, error) {
	ram, err := m.RAM().Digest()
	if err != nil {
		return digests{}, fmt.Errorf("digest of RAM: %w", err)
	}
	state, err := m.StateDigest()
	if err != nil {
		return digests{}, fmt.Errorf("digest of the machine's state: %w", err)
	}
	return digests{ram: ram, state: state}, nil
}

// parts verifies part by part.
type parts struct {
	s       *Source
	leftOut memory.Spans
	print   []byte // the fingerprint
}

// ram implements [verifier]. It does all slow work, because the standstill's limit counts again
// afterwards.
func (v *parts) ram(ctx context.Context) error {
	if v.s.agreesOnLeftOut() {
		v.leftOut = v.s.stream.Declared()
		if err := v.s.sendDigests(ctx, digestLeftOut, packSpans(v.leftOut)); err != nil {
			return err
		}
		// A message ends what was announced before it, and the work comes now.
		if err := v.s.peer.AnnounceWork(); err != nil {
			return peer.Explain(ctx, err)
		}
	}
	own, err := v.s.m.RAM().ChunkDigests(v.leftOut)
	if err != nil {
		return fmt.Errorf("digest of RAM: %w", err)
	}
	if v.print, err = v.s.m.Fingerprint(); err != nil {
		return fmt.Errorf("digest of the machine's state: %w", err)
	}
	b, err := v.s.awaitDigests(ctx, digestRAM)
	if err != nil {
		return err
	}
	theirs, err := unpackDigests(b, len(own))
	if err != nil {
		return err
	}
	if wrong := differing(own, theirs); len(wrong) > 0 {
		return v.namePages(ctx, wrong[0], len(wrong), len(own))
	}
	all := packDigests([]uint64{memory.DigestOf(own)})
	return v.s.sendDigests(ctx, digestRAM, all)
}

// differing lists the indices at which two lists of the same length differ.
func differing(a, b []uint64) []int {
	var at []int
	for i := range a {
		if a[i] != b[i] {
			at = append(at, i)
		}
	}
	return at
}

// maxPagesNamed is how many pages an error names.
const maxPagesNamed = 4

// namePages asks for the digests of a chunk's pages and returns an error that names those that
// differ.
func (v *parts) namePages(ctx context.Context, chunk, chunks, all int) error {
	question := binary.LittleEndian.AppendUint32(nil, uint32(chunk))
	if err := v.s.sendDigests(ctx, digestPages, question); err != nil {
		return err
	}
	b, err := v.s.awaitDigests(ctx, digestPages)
	if err != nil {
		return err
	}
	ram := v.s.m.RAM()
	own := ram.PageDigests(chunk, v.leftOut)
	theirs, err := unpackDigests(b, len(own))
	if err != nil {
		return err
	}
	wrong := differing(own, theirs)
	var named []string
	for _, page := range wrong[:min(len(wrong), maxPagesNamed)] {
		page += chunk * (memory.DigestChunk / memory.PageSize)
		named = append(named, fmt.Sprintf("%#x", ram.AddressOf(page)))
	}
	return fmt.Errorf("%w: RAM at the destination differs in %d of %d chunks of %d MiB, "+
		"in the first of them in %d pages, the first at %s", ErrVerify,
		chunks, all, memory.DigestChunk>>20, len(wrong), strings.Join(named, ", "))
}

// state implements [verifier].
func (v *parts) state(ctx context.Context) error {
	theirs, err := v.s.awaitDigests(ctx, digestAll)
	if err != nil {
		return err
	}
	if err := v.s.m.CompareStates(v.print, theirs); err != nil {
		return fmt.Errorf("%w: %w", ErrVerify, err)
	}
	return v.s.sendDigests(ctx, digestAll, v.print)
}

// arrived is the destination's side of the verification.
type arrived interface {
	// ram sums RAM up and returns once the state may be loaded.
	ram() error
	// loaded reads back what the state has become.
	loaded() error
	// agree returns nil once both sides have found the same.
	agree() error
}

// verification is what both kinds of [arrived] have in common.
type verification struct {
	main    *transport.Conn
	machine Incoming
	watch   *peer.Watch
}

// ask waits for the source's digests.
func (v *verification) ask() (of uint32, payload []byte, err error) {
	v.watch.Theirs()
	defer v.watch.Ours()
	h, err := v.main.Next()
	if err != nil {
		return 0, nil, err
	}
	payload, err = readPayload(v.main, h, transport.TypeDigests)
	return h.Arg, payload, err
}

func (v *verification) say(of uint32, payload []byte) error {
	return v.main.WriteMessage(transport.TypeDigests, of, payload)
}

// arrivedSums answers a source that compares sums.
type arrivedSums struct {
	verification
	own digests
}

func (v *arrivedSums) ram() (err error) {
	if v.own.ram, err = v.machine.RAM().Digest(); err != nil {
		return fmt.Errorf("digest of RAM: %w", err)
	}
	// The source's limit of the standstill counts again after this message, because it covers the
	// loading.
	return v.say(digestRAM, v.own.bytes())
}

func (v *arrivedSums) loaded() (err error) {
	if v.own.state, err = v.machine.StateDigest(); err != nil {
		return fmt.Errorf("digest of the machine's state: %w", err)
	}
	return nil
}

func (v *arrivedSums) agree() error {
	if err := v.say(digestAll, v.own.bytes()); err != nil {
		return err
	}
	_, theirs, err := v.ask()
	if err != nil {
		return err
	}
	return v.own.check(theirs)
}

// arrivedParts answers a source that compares part by part.
type arrivedParts struct {
	verification
	leavesOut bool // transport.FeatureLeftOut
	leftOut   memory.Spans
	state     []byte
}

// maxQuestions is how often a source may ask for the pages of a chunk.
const maxQuestions = 16

func (v *arrivedParts) ram() error {
	if v.leavesOut {
		if err := v.hearLeftOut(); err != nil {
			return err
		}
	}
	own, err := v.machine.RAM().ChunkDigests(v.leftOut)
	if err != nil {
		return fmt.Errorf("digest of RAM: %w", err)
	}
	if err := v.say(digestRAM, packDigests(own)); err != nil {
		return err
	}
	for range maxQuestions {
		of, payload, err := v.ask()
		if err != nil {
			return err
		}
		switch of {
		case digestPages:
			if err := v.answer(payload, len(own)); err != nil {
				return err
			}
		case digestRAM:
			if !slices.Equal(payload, packDigests([]uint64{memory.DigestOf(own)})) {
				return fmt.Errorf("%w: RAM at the source differs", ErrVerify)
			}
			// The time for the loading is announced again, because the source has spoken since.
			return v.main.Announce(peer.WorkLimit(v.machine.RAM().Size()))
		default:
			return fmt.Errorf("%w: digests of %d before the state is loaded",
				transport.ErrFrame, of)
		}
	}
	return fmt.Errorf("%w: more than %d questions about RAM", transport.ErrFrame, maxQuestions)
}

// hearLeftOut learns which pages are left out.
func (v *arrivedParts) hearLeftOut() error {
	of, payload, err := v.ask()
	if err != nil {
		return err
	}
	if of != digestLeftOut {
		return fmt.Errorf("%w: digests of %d where %d were due", transport.ErrFrame, of,
			digestLeftOut)
	}
	if v.leftOut, err = unpackSpans(payload, v.machine.RAM().Pages()); err != nil {
		return err
	}
	// The time for the digests is announced again, because the source has spoken since.
	return v.main.Announce(peer.WorkLimit(v.machine.RAM().Size()))
}

// answer sends the digests of a chunk's pages.
func (v *arrivedParts) answer(question []byte, chunks int) error {
	if len(question) != 4 {
		return fmt.Errorf("%w: a question of %d bytes", transport.ErrFrame, len(question))
	}
	chunk := binary.LittleEndian.Uint32(question)
	if uint64(chunk) >= uint64(chunks) {
		return fmt.Errorf("%w: chunk %d of %d", transport.ErrFrame, chunk, chunks)
	}
	own := v.machine.RAM().PageDigests(int(chunk), v.leftOut)
	return v.say(digestPages, packDigests(own))
}

func (v *arrivedParts) loaded() (err error) {
	if v.state, err = v.machine.Fingerprint(); err != nil {
		return fmt.Errorf("digest of the machine's state: %w", err)
	}
	return nil
}

func (v *arrivedParts) agree() error {
	if err := v.say(digestAll, v.state); err != nil {
		return err
	}
	of, theirs, err := v.ask()
	if err == nil && of != digestAll {
		err = fmt.Errorf("%w: digests of %d where %d were due", transport.ErrFrame, of, digestAll)
	}
	if err == nil {
		err = v.machine.CompareStates(theirs, v.state)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrVerify, err)
	}
	return nil
}
