package virtio

import (
	"fmt"
	"log/slog"
	"sync"

	"taskguide/memory"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/state"
)

// MaxDisks is the most disks that a machine has.
const MaxDisks = 16

const (
	slotDisk   = 8 // of the first disk
	idBlock    = 2
	classBlock = 0x010000 // mass storage
	blockQueue = 256

	// blockWorkers is how many requests a disk serves at the same time.
	blockWorkers = 8
)

// Features of a block device.
const (
	blockSegMax      = 1 << 2
	blockReadOnly    = 1 << 5
	blockBlockSize   = 1 << 6
	blockFlush       = 1 << 9
	blockDiscard     = 1 << 13
	blockWriteZeroes = 1 << 14
)

// Bounds on requests that clear parts of a disk, in sectors and in parts of a request.
const (
	mostDiscard = 1 << 22
	mostZeroes  = 1 << 16
	mostParts   = 16
)

// A request is a header, data, and at the end a byte for the answer.
const (
	blockHeader = 16
	blockSector = 8 // in the header: the first sector

	blockIn       = 0
	blockOut      = 1
	blockFlushAll = 4
	blockGetID    = 8
	blockDrop     = 11
	blockZero     = 13

	blockOK          = 0
	blockIOError     = 1
	blockUnsupported = 2

	blockIDBytes = 20
)

// block is the backend.
type block struct {
	ram  *memory.Guest
	disk *Disk
	id   string

	jobs    chan request // closed by close
	workers sync.WaitGroup
}

// BlockKind returns the kind of the n-th disk's state, counted from 0.
func BlockKind(n int) state.Kind { return state.Kind{Name: fmt.Sprintf("blk%d", n), Version: 1} }

// Block is a disk's device. It waits for the disk's storage.
type Block struct {
	*Device
	name string
}

// Drain implements [device.Drainer].
func (b *Block) Drain() (idle <-chan struct{}) { return b.drain() }

// Busy implements [device.Drainer].
func (b *Block) Busy() string {
	if b.busy() {
		return b.name
	}
	return ""
}

// NewBlock returns the n-th disk on a bus. The device closes the disk.
func NewBlock(host *pci.Host, n int, disk *Disk, log *slog.Logger) *Block {
	b := &block{disk: disk, id: fmt.Sprintf("disk%d", n), jobs: make(chan request)}
	d := newDevice(host, spec{
		name: BlockKind(n).Name, slot: slotDisk + n, id: idBlock, class: classBlock,
		features: b.features(), sizes: []uint16{blockQueue}, config: b.config(),
	}, b, log)
	return &Block{Device: d, name: "disk " + disk.Path}
}

func (b *block) features() uint64 {
	const always = blockSegMax | blockBlockSize
	if b.disk.ReadOnly {
		return always | blockReadOnly
	}
	return always | blockFlush | blockDiscard | blockWriteZeroes
}

// config returns struct virtio_blk_config.
func (b *block) config() []byte {
	const (
		atSegMax    = 12
		atBlockSize = 20
		atDiscard   = 36
		atZeroes    = 48
		size        = 60
	)
	c := make([]byte, size)
	le.PutUint64(c, uint64(b.disk.bytes/sectorBytes))
	le.PutUint32(c[atSegMax:], blockQueue-2) // without header and answer
	le.PutUint32(c[atBlockSize:], uint32(b.disk.block))
	if !b.disk.ReadOnly {
		le.PutUint32(c[atDiscard:], mostDiscard)
		le.PutUint32(c[atDiscard+4:], mostParts)
		le.PutUint32(c[atDiscard+8:], uint32(b.disk.block/sectorBytes))
		le.PutUint32(c[atZeroes:], mostZeroes)
		le.PutUint32(c[atZeroes+4:], mostParts)
		c[atZeroes+8] = 1 // zeroes may unmap
	}
	return c
}

func (b *block) start(ram *memory.Guest) {
	b.ram = ram
	for range blockWorkers {
		b.workers.Go(func() {
			for r := range b.jobs {
				b.do(r)
			}
		})
	}
}

// serve gives a request to a worker, once one is free.
func (b *block) serve(r request) { b.jobs <- r }

func (b *block) close() {
	close(b.jobs)
	b.workers.Wait()
	b.disk.Close()
}

// do carries out a request and answers it.
func (b *block) do(r request) {
	if r.readBytes < blockHeader || r.writeBytes < 1 {
		r.done(0, broken("a disk request without header or room for an answer"))
		return
	}
	first, out := cut(r.readable, blockHeader)
	in, answer := cut(r.writable, r.writeBytes-1)
	header := gather(b.ram, first)
	kind, sector := le.Uint32(header), le.Uint64(header[blockSector:])
	written := uint32(1)
	var status byte
	switch kind {
	case blockIn:
		written = uint32(r.writeBytes)
		status = b.read(in, r.writeBytes-1, sector)
	case blockOut:
		status = b.durably(r, b.write(out, r.readBytes-blockHeader, sector))
	case blockFlushAll:
		status = b.answer(b.disk.flush())
	case blockGetID:
		written = uint32(r.writeBytes)
		status = b.identify(in, r.writeBytes-1)
	case blockDrop, blockZero:
		status = b.durably(r, b.clear(kind, out, r.readBytes-blockHeader))
	default:
		status = blockUnsupported
	}
	scatter(b.ram, answer, []byte{status})
	r.done(written, nil)
}

// answer returns the status byte that tells the guest of the host's error.
func (b *block) answer(err error) byte {
	b.disk.note(err)
	if err != nil {
		return blockIOError
	}
	return blockOK
}

// has tells whether the disk has n bytes from a sector on, in whole blocks of the disk.
func (b *block) has(sector uint64, n int) bool {
	sectors := uint64(b.disk.bytes / sectorBytes)
	unit := uint64(b.disk.block / sectorBytes)
	return n%b.disk.block == 0 && sector%unit == 0 &&
		sector <= sectors && uint64(n/sectorBytes) <= sectors-sector
}

func (b *block) read(in []memory.Range, n int, sector uint64) byte {
	if !b.has(sector, n) {
		return blockIOError
	}
	offset := int64(sector * sectorBytes)
	if !b.straight(in) {
		return b.answer(b.bounced(in, n, func(part []byte, at int64, ranges []memory.Range) error {
			if err := b.disk.transfer(b.disk.preadv, [][]byte{part}, offset+at); err != nil {
				return err
			}
			scatter(b.ram, ranges, part)
			return nil
		}))
	}
	var err error
	b.ram.FillRanges(in, func(dst [][]byte) { err = b.disk.transfer(b.disk.preadv, dst, offset) })
	return b.answer(err)
}

// durably makes a write durable at once for a driver that did not negotiate flush, and returns the
// request's status.
func (b *block) durably(r request, status byte) byte {
	if status != blockOK || r.features&blockFlush != 0 {
		return status
	}
	return b.answer(b.disk.flush())
}

func (b *block) write(out []memory.Range, n int, sector uint64) byte {
	if !b.has(sector, n) || b.disk.ReadOnly {
		return blockIOError
	}
	offset := int64(sector * sectorBytes)
	var err error
	if b.straight(out) {
		src, _ := b.ram.Slices(out)
		err = b.disk.transfer(b.disk.pwritev, src, offset)
	} else {
		err = b.bounced(out, n, func(part []byte, at int64, ranges []memory.Range) error {
			copy(part, gather(b.ram, ranges))
			return b.disk.transfer(b.disk.pwritev, [][]byte{part}, offset+at)
		})
	}
	return b.answer(err)
}

// straight tells whether the host can access the ranges directly.
func (b *block) straight(ranges []memory.Range) bool {
	if !b.disk.direct {
		return true
	}
	for _, r := range ranges {
		if r.GPA%uint64(b.disk.block) != 0 || r.Bytes%b.disk.block != 0 {
			return false
		}
	}
	return true
}

// bounced calls f for one piece of the ranges after the other. It passes memory that the host
// accepts, the piece's offset, and its ranges.
func (b *block) bounced(ranges []memory.Range, n int,
	f func(part []byte, at int64, ranges []memory.Range) error) error {
	buffer, err := newBounce()
	if err != nil {
		return err
	}
	defer buffer.free()
	for at := 0; at < n; {
		part := min(n-at, bounceBytes)
		var piece []memory.Range
		piece, ranges = cut(ranges, part)
		if err := f(buffer[:part], int64(at), piece); err != nil {
			return err
		}
		at += part
	}
	return nil
}

// identify answers a request for the disk's name.
func (b *block) identify(in []memory.Range, n int) byte {
	if n < blockIDBytes {
		return blockIOError
	}
	var id [blockIDBytes]byte
	copy(id[:], b.id)
	scatter(b.ram, in, id[:])
	return blockOK
}

// A part of the disk to drop or zero, in a request.
const (
	partBytes   = 16
	partSectors = 8
	partFlags   = 12
	partUnmap   = 1
)

// clear drops or zeroes parts of the disk.
func (b *block) clear(kind uint32, out []memory.Range, n int) byte {
	if b.disk.ReadOnly || n == 0 || n%partBytes != 0 || n/partBytes > mostParts {
		return blockIOError
	}
	for parts := gather(b.ram, out); len(parts) > 0; parts = parts[partBytes:] {
		if status := b.clearPart(kind, parts[:partBytes]); status != blockOK {
			return status
		}
	}
	return blockOK
}

func (b *block) clearPart(kind uint32, part []byte) byte {
	sector, sectors := le.Uint64(part), le.Uint32(part[partSectors:])
	flags := le.Uint32(part[partFlags:])
	most := uint32(mostDiscard)
	if kind == blockZero {
		most = mostZeroes
	}
	switch {
	case flags&^partUnmap != 0 || flags != 0 && kind == blockDrop:
		return blockUnsupported
	case sectors == 0 || sectors > most || !b.has(sector, int(sectors)*sectorBytes):
		return blockIOError
	}
	offset, n := int64(sector*sectorBytes), int64(sectors)*sectorBytes
	if kind == blockDrop {
		return b.answer(b.disk.discard(offset, n))
	}
	return b.answer(b.disk.zero(offset, n, flags&partUnmap != 0))
}
