package boot

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 8} {
		b := encodeMPTable(mpTable, cpus)
		require.Equal(t, "_MP_", string(b[:4]))
		require.Equal(t, uint32(mpTable+mpPointer), le.Uint32(b[4:]))
		require.Zero(t, checksum(b[:mpPointer]))
		table := b[mpPointer:]
		require.Equal(t, "PCMP", string(table[:4]))
		require.Equal(t, len(table), int(le.Uint16(table[4:])))
		require.Zero(t, checksum(table))

		kinds := make(map[byte]int)
		lengths := map[byte]int{mpProcessor: 20, mpBus: 8, mpIOAPIC: 8, mpInterrupt: 8, mpLocal: 8}
		count := 0
		for e := table[mpHeader:]; len(e) > 0; e = e[lengths[e[0]]:] {
			require.Contains(t, lengths, e[0])
			if e[0] == mpProcessor {
				require.Equal(t, byte(kinds[mpProcessor]), e[1], "APIC id")
				require.Equal(t, kinds[mpProcessor] == 0, e[3]&2 != 0, "the first boots")
			}
			kinds[e[0]]++
			count++
		}
		require.Equal(t, map[byte]int{
			mpProcessor: cpus, mpBus: 1, mpIOAPIC: 1, mpInterrupt: isaIRQs, mpLocal: 2,
		}, kinds)
		require.Equal(t, count, int(le.Uint16(table[34:])))
	}
}
