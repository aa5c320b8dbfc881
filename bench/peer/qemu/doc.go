// Package qemu starts QEMU with the project's guest and migrates it.
//
// QEMU is the yardstick: the live migration that most of the world runs moves the same guest on the
// same host. Tests use this package to show that the guest is an ordinary PVH guest, and
// comparisons use it as the peer.
//
// # One migration
//
//	src, _ := qemu.Start(ctx, qemu.Options{
//		Machine: qemu.MicroVM, Kernel: elf, Cmdline: "workload=phased",
//	})
//	dst, _ := qemu.Start(ctx, qemu.Options{..., Incoming: true})
//	_, err := src.Console.WaitBeats(ctx, 0)          // the guest is at work
//	uri, err := dst.Listen(ctx, "tcp:127.0.0.1:0", m) // m: channels, compression, limits
//	stats, err := src.Migrate(ctx, uri, m, nil)
//	_, err = dst.Console.WaitBeats(ctx, 0)           // and at work again, over there
//
// Both ends must know the channels and the compression before the first byte, which is why Listen
// takes the migration's parameters, too. After a completed migration, the source's QEMU stays,
// stopped, until Close ends it.
//
// # What the figures mean
//
// Stats holds QEMU's own account. Its downtime begins when the source stops its virtual CPUs and
// ends when the source has sent everything. It does not include what the destination does before it
// runs the guest. The guest's own account, the gap in its next heartbeat, does, if its clock goes
// on: on most KVMs QEMU stops the TSC for the downtime, and the gap leaves it out. So comparisons
// should show both, and an outside clock.
//
// In post-copy, that downtime ends when the state of the devices was sent, while most of RAM is
// still at the source. The guest then runs, and stands still again at each page that it needs and
// has to fetch, which no figure of QEMU's tells. So only the guest's own account and an outside
// clock can be compared. A source that dies in post-copy takes the guest with it.
//
// # Machines
//
// MicroVM is QEMU's minimal machine, without PIC, PIT and RTC: it needs the least
// emulated code at boot, and boots where KVM emulates ring 0. PC is the classic i440FX
// with its BIOS.
package qemu
