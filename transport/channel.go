package transport

import "taskguide/memory"

// chunkPages is the length, in pages (2 MiB), of the stretches of RAM that are each bound to one
// channel. It is a multiple of 64, so that two channels never share a word of a bitmap.
const chunkPages = 512

// ChannelOf is the channel to which a page is bound for the whole migration.
func ChannelOf(page, channels int) int { return page / chunkPages % channels }

// ownIndex numbers the pages that are bound to one channel, without gaps and in ascending
// order. The page must be the channel's own.
func ownIndex(page, channels int) int {
	return page/(chunkPages*channels)*chunkPages + page%chunkPages
}

// ownPages is how many of a RAM's pages are bound to a channel.
func ownPages(pages, channel, channels int) int {
	cycle := chunkPages * channels
	rest := pages%cycle - channel*chunkPages
	return pages/cycle*chunkPages + min(max(rest, 0), chunkPages)
}

// OwnRun finds the first run of pages in a set, at or after from, that is bound to a channel, and
// cuts it at limit pages. count is 0 when none is left. OwnRun reads only words of the channel's
// own pages, so that other channels may change theirs meanwhile.
func OwnRun(pages *memory.Bitmap, channel, channels, from, limit int) (first, count int) {
	if channels == 1 {
		return pages.NextRun(from, limit)
	}
	for from = pages.SkipEmpty(from); from < pages.Len(); from = pages.SkipEmpty(from) {
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
