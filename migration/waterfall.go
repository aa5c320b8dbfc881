package migration

import (
	"encoding/binary"
	"time"

	"taskguide/transport"
)

// DowntimeParts splits Report.DowntimeMS, in milliseconds.
//
// The source's stopwatch runs through a downtime without a break. Its laps are the first ten parts,
// in the order in which they happen; SaveMS and SyncMS pass beside PagesMS. The destination says
// how long it worked for two of these laps, by its own clock. What is left of the two is the way of
// the messages, as far as a round trip explains it. UnexplainedMS is everything else.
type DowntimeParts struct {
	ExitMS    float64 `json:"exit_ms"`    // a vCPU held at its EXIT until all are asked to stop
	PauseMS   float64 `json:"pause_ms"`   // vCPUs asked to stop until they stand still
	QuiesceMS float64 `json:"quiesce_ms"` // devices come to rest; long only after an EXIT
	HarvestMS float64 `json:"harvest_ms"` // last dirty pages collected
	PagesMS   float64 `json:"pages_ms"`   // last pages sent, until they have arrived
	SaveMS    float64 `json:"save_ms"`    // device and vCPU state saved, beside the pages
	SyncMS    float64 `json:"sync_ms"`    // then disks made durable and let go, beside the pages
	VerifyMS  float64 `json:"verify_ms"`  // if asked: state sent, RAM summed up at both sides
	LoadMS    float64 `json:"load_ms"`    // state sent (without verify) and applied
	RunMS     float64 `json:"run_ms"`     // commit sent until the destination reports "running"

	// SettleMS is what save and sync took longer than the pages.
	SettleMS float64 `json:"settle_ms"`
	// LoadThereMS is the part of LoadMS in which the destination loaded the state, and RunThereMS
	// the part of RunMS from its reading of the commit until it reported. nil: it did not say.
	LoadThereMS *float64 `json:"load_there_ms"`
	RunThereMS  *float64 `json:"run_there_ms"`
	// WayMS is the part of LoadMS and RunMS for which the messages were under way: what the
	// destination did not work, up to a round trip for each, and the state's bytes at the measured
	// bandwidth.
	WayMS float64 `json:"way_ms"`
	// UnexplainedMS is what no part explains.
	UnexplainedMS float64 `json:"unexplained_ms"`
}

// Explained is the sum of the parts that follow one another, without UnexplainedMS.
func (p DowntimeParts) Explained() float64 {
	sum := p.ExitMS + p.PauseMS + p.QuiesceMS + p.HarvestMS + p.PagesMS + p.SettleMS + p.VerifyMS
	sum += p.WayMS
	for _, lap := range []struct {
		ms    float64
		there *float64
	}{{p.LoadMS, p.LoadThereMS}, {p.RunMS, p.RunThereMS}} {
		if lap.there == nil {
			sum += lap.ms // nothing of it is known but its length
		} else {
			sum += *lap.there
		}
	}
	return sum
}

// explain sets what the parts do not explain of a downtime.
func (p *DowntimeParts) explain(downtimeMS float64) {
	p.UnexplainedMS = max(0, downtimeMS-p.Explained())
}

// noteStay makes the last standstill, if there was one, the downtime of a guest that stays. Its
// parts are those of the attempt that has failed. A guest that its user paused has no standstill of
// that attempt, and so no parts; but it may have stood still in an attempt before.
func (r *Report) noteStay() {
	if n := len(r.Standstills); n > 0 {
		r.DowntimeMS = r.Standstills[n-1].MS
	}
	if r.Downtime.Explained() > r.DowntimeMS {
		r.Downtime = DowntimeParts{}
	}
	r.Downtime.explain(r.DowntimeMS)
}

// split splits a lap in which the source waited for an answer. There is how long the destination
// says that it worked, and way the time that the messages may take. It returns nil if the
// destination's word is missing, or cannot be true.
func (p *DowntimeParts) split(lapMS float64, there time.Duration, way time.Duration) *float64 {
	work := ms(there)
	if there <= 0 || work > lapMS {
		return nil
	}
	p.WayMS += min(lapMS-work, ms(way))
	return &work
}

// wayOf is how long a message of that many bytes and its answer should be under way.
func (s *Source) wayOf(bytes int) time.Duration {
	way := s.peer.RoundTrip()
	if rate := s.stream.Rate().Wire; rate > 0 {
		way += time.Duration(float64(bytes) / rate * float64(time.Second))
	}
	return way
}

// timesBytes is how long the payload is in which a destination says how long it worked.
const timesBytes = 8

// workedThere is what the destination says about how long it worked, or 0 if it does not say so.
// Without the feature a payload means something else, or nothing.
func (s *Source) workedThere(payload []byte) time.Duration {
	if s.peer.Terms().Features&transport.FeatureTimes == 0 {
		return 0
	}
	return worked(payload)
}

// worked reads how long that was.
func worked(payload []byte) time.Duration {
	if len(payload) < timesBytes {
		return 0
	}
	return time.Duration(min(binary.LittleEndian.Uint64(payload), 1<<62))
}

// worked is the payload of a message that ends work which has begun at that time.
func (a *attempt) worked(begin time.Time) []byte {
	if a.terms.Features&transport.FeatureTimes == 0 {
		return nil
	}
	// A clock that has not moved must not look like no answer.
	return binary.LittleEndian.AppendUint64(nil, uint64(max(time.Since(begin), 1)))
}
