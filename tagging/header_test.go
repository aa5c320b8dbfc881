package tagging

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/tagging/abi"
)

// The registers are defined twice: for guests to compile in, and for the port.
func TestHeaderAgrees(t *testing.T) {
	header, err := os.ReadFile("include/tag.h")
	require.NoError(t, err)
	got := map[string]uint64{}
	defines := regexp.MustCompile(`(?m)^#define (TAG_\w+) +(0x[0-9a-f]+|\d+)u\b`)
	for _, m := range defines.FindAllStringSubmatch(string(header), -1) {
		v, err := strconv.ParseUint(m[2], 0, 64)
		require.NoError(t, err)
		got[m[1]] = v
	}
	states := regexp.MustCompile(`(?m)^\t(TAG_\w+) = (\d)`)
	for _, m := range states.FindAllStringSubmatch(string(header), -1) {
		got[m[1]] = uint64(m[2][0] - '0')
	}
	require.Equal(t, map[string]uint64{
		"TAG_MMIO_BASE":      MMIOBase,
		"TAG_PORT_BASE":      PortBase,
		"TAG_REG_ID":         RegID,
		"TAG_REG_VERSION":    RegVersion,
		"TAG_REG_ENTER":      RegEnter,
		"TAG_REG_EXIT":       RegExit,
		"TAG_REG_STATE":      RegState,
		"TAG_REG_EPOCH":      RegEpoch,
		"TAG_REG_REGISTER":   RegRegister,
		"TAG_REG_UNREGISTER": RegUnregister,
		"TAG_REG_PAGE_LO":    RegPageLo,
		"TAG_REG_PAGE_HI":    RegPageHi,
		"TAG_REG_CLOCK_LO":   RegClockLo,
		"TAG_REG_CLOCK_HI":   RegClockHi,
		"TAG_REG_DEADLINE":   RegDeadlineMS,
		"TAG_REG_CLONES":     RegClones,
		"TAG_REG_PAGES":      RegPages,
		"TAG_ID":             ID,
		"TAG_PAGE_MAGIC":     PageMagic,
		"TAG_PAGE_VERSION":   PageVersion,
		"TAG_PAGE_SIZE":      PageSize,
		"TAG_PAGE_SLOTS":     PageSlots,
		"TAG_NAME_SIZE":      abi.SlotNameBytes,
		"TAG_PCI_VENDOR":     abi.PCIVendor,
		"TAG_PCI_DEVICE":     abi.PCIDevice,
		"TAG_DEVICE_PAGES":   DevicePages,
		"TAG_RANGES":         MaxRanges,
		"TAG_RANGES_AT":      rangesAt,
		"TAG_RANGES_SLOTS":   abi.RangesSlots,

		"TAG_RANGE_PAGES_BITS": rangePageBits,

		"TAG_SLOT_FREE":    0,
		"TAG_SLOT_USED":    slotUsed,
		"TAG_SLOT_CLAIMED": 2,
		"TAG_NONE":         uint64(StateNone),
		"TAG_WAITING":      uint64(StateWaiting),
		"TAG_PRECOPY":      uint64(StatePreCopy),
		"TAG_SUSPENDED":    uint64(StateSuspended),
		"TAG_SWITCHING":    uint64(StateSwitchingOver),
	}, got)
	// test_tag.c checks the same offsets against the header's structures.
	test, err := os.ReadFile("include/test_tag.c")
	require.NoError(t, err)
	for field, at := range map[string]uint64{
		"tag_page, magic": pageMagicAt, "tag_page, version": pageVersionAt,
		"tag_page, notify": pageNotifyAt,
		"tag_page, slots":  pageSlotsAt, "tag_page, slot": pageSlot0,
		"tag_slot, flags": slotFlagsAt, "tag_slot, task": slotTaskAt,
		"tag_slot, depth": slotDepthAt, "tag_slot, name": slotNameAt,
		"tag_page, lease": pageLeaseAt, "tag_page, term_ms": pageTermAt,
		"tag_page, ranges": pageRangesAt,
	} {
		want := "offsetof(struct " + field + ") == 0x" + strconv.FormatUint(at, 16) + ")"
		require.True(t, strings.Contains(string(test), want), want)
	}
}
