// Package policy decides what a migration does next. It is pure: it is told what happened and
// at what time, and says what to do. It reads no clock, takes no lock, waits for nothing and
// starts nothing.
//
// # The head and its hands
//
// A Head decides for a migration; the engine is its hands. The engine tells it of every event
// (Head.Step) and does what the Action says: send another round, end the one under way, wait,
// suspend, look at the dirty log, make the guest stand still, abort. The Head combines what three
// parts say:
//
//	              ┌ policy     is little enough left?               (Policy)
//	event ► Head ─┼ guidance   is the moment good for the guest?    (Guidance)
//	              └ patience   for how long may guidance yet wait?  (Deferral)
//	          │
//	          ▼
//	       action
//
// The same events always have the same answers, so a test is a transcript: testdata/*.txt has
// events and answers, and go test ./migration/policy -rewrite writes the answers anew.
//
// # A policy
//
// A Policy gets events and answers each with one Action. Most judge only by the migration's present
// state, and are a StopRule: a function from the event to the action. To add one, write a file that
// registers it under its name, like xen.go, and a test beside it. Command line, completion, help,
// validation, benchmarks and the matrices of tests take it from the registry.
//
// A program can decide as well (exec:PROGRAM). It is not asked here: the engine asks it, with no
// lock held, and brings its answer with the event (Head.Question, Event.Answer).
//
// # When it is asked
//
//   - start: before a page is sent. A policy that answers Wait gets samples of the dirty rate, the
//     first of them at the time Until.
//   - sample: before round 1. Wait asks for another sample, and Continue begins the round. Samples
//     have a price. Under a dirty log that leaves protection to the engine, all pages count as
//     dirty at first, so all of RAM must be protected before the first sample; and each page that
//     is written is protected again for the next. The report says what that took.
//   - round: after each round of pre-copy, also after one that was cut short.
//   - tick: after a wait between rounds, its own or guidance's. While the policy is content and a
//     closed gate holds the switchover back, a tick comes ten times a second. One more comes in the
//     middle of a round, when guidance has deferred the migration for as long as it may. There only
//     Switchover has an effect: the round ends.
//   - gate, closing: in the middle of a round, while a vCPU is held at the EXIT that would close
//     the gate. The guest stands still for the answer. After a question that came to nothing, none
//     is asked for 20 times as long as that took, and the dirty log is looked at for it at most 200
//     times a second. In round 1 it is not asked. Switchover makes the guest stand still right
//     there; any other answer counts as Continue.
//
// The head also tells it of all other events, whose answers change nothing.
//
// After a round or a tick it may also Wait, until a time or until the gate has changed; Suspend,
// until the gate has changed; or Abort. While it waits, no page is sent. That is not guidance's
// doing, so it does not count as deferred, and nothing here bounds it.
//
// # What it may rely on
//
//   - The event has all facts: the rounds so far and the migration's present state. So a rule needs
//     no memory of its own.
//   - It is asked by one caller at a time, and now never goes back.
//   - Remaining counts pages that the destination does not have. After a round it is exact. In
//     the middle of a round it is what a switchover would have to send at most.
//   - Fixed is what a switchover takes besides its pages, as estimated. A limit is one of the whole
//     downtime, so a policy that has one compares the pages with what ForPages leaves of it.
//   - Some questions are about a guess. At an EXIT it is first asked with the fewest pages that
//     there can be, because finding the number costs the guest time. If it says Switchover to that,
//     the engine looks at the dirty log and asks again. So a policy must not say Continue to fewer
//     pages where it says Switchover to more, all else being equal. Asked twice, it must give the
//     same answer.
//   - Its answer is advice. The engine may still send further rounds, for guidance or to polish;
//     then it asks again.
//   - A Switchover may be taken back: the gate has closed meanwhile, or the guest stood still
//     for too long. Then it is asked again after the next round.
//
// # What "gave up" decides
//
// A policy ends pre-copy in one of two ways. It is content: what is left is little enough. Or
// it gives up (Action.GaveUp): much may be left, but there is no use in further rounds. A
// policy that gave up must say so again after later rounds. The answer decides four things:
//
//   - By default the standstill has no limit after giving up, because a policy that takes any
//     number of pages accepts the time that they take. After a content policy the standstill has a
//     limit.
//   - The rest is not polished, because the rounds have failed to make it smaller.
//   - Before a gate that has just opened, and at an EXIT, giving up is not enough to switch over.
//     The switchover would have to send what a busy phase left behind, though the segment's first
//     rounds would have shrunk it. So with guidance, rounds go on for as long as each leaves
//     clearly less than it began with.
//   - When guidance has deferred the migration for as long as it may and the gate is open, a
//     content policy switches over unforced. The switchover of a policy that gave up counts as
//     forced.
//
// # Why the gate is not a policy's
//
// Events have the state of the gate, so that a policy can tell busy phases from calm ones. A policy
// must not wait for the gate. Waiting is guidance's part, and the time for which guidance defers a
// migration is counted and ends after --max-defer. The count begins when the policy is first
// content. A policy that says Continue because the gate is closed is never content, so nothing
// counts, and a guest whose gate stays closed keeps its host for ever.
//
// # Traits
//
// Traits say what the engine does for a policy besides asking it. Each policy has its own traits,
// and each trait can be set for any policy, as in downtime:polish=off. So two rules can be compared
// with nothing else changed.
package policy
