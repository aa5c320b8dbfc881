package transport

import "taskguide/memory"

// chunkPages is the stretch of RAM that is bound to one channel as a whole, in
// pages (2 MiB). A multiple of 64, so that two channels never share a word of a
// bitmap.
const chunkPages = 512

// ChannelOf is the channel that a page is bound to for the whole migration.
func ChannelOf(page, channels int) int { return page / chunkPages % channels }

// OwnRun finds, in a set of pages, the first run at or after from that is bound
// to a channel, cut at limit pages. count is 0 when none is left. It reads only
// words of the channel's own pages, so that the others may change theirs.
func OwnRun(pages *memory.Bitmap, channel, channels, from, limit int) (first, count int) {
	if channels == 1 {
		return pages.NextRun(from, limit)
	}
	for from < pages.Len() {
		chunk := from / chunkPages
		if behind := (channel - chunk%channels + channels) % channels; behind > 0 {
			from = (chunk + behind) * chunkPages
			continue
		}
		first, count = pages.NextRunBefore(from, (chunk+1)*chunkPages)
		if count > 0 {
			return first, min(count, limit)
		}
		from = (chunk + 1) * chunkPages
	}
	return pages.Len(), 0
}
