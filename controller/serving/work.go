package serving

import (
	"fmt"
	"sync"
	"time"

	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/internal/enrol"
	wire "hatchery/internal/reimage"
)

// unheard is how long after the service began a node that writes its card may be at
// any point of that, as long as it has not said at which.
const unheard = 10 * time.Minute

// atWork says what is at work on a slot, for whom its power is kept; nil for nothing.
func (s *operating) atWork(slot int) *power.Work {
	var card *reimage.View
	if s.cards != nil {
		card = s.cards.View(slot)
	}
	if s.operations != nil {
		if v := s.operations.View(slot); v != nil {
			w := operationWork(v)
			if card != nil {
				w.Boot = s.boot.may(slot, card.Operation, writesBoot(card, time.Since(s.began)), time.Now())
			}
			return w
		}
	}
	switch {
	case card != nil:
		w := cardWork(card, time.Since(s.began))
		w.Boot = s.boot.may(slot, card.Operation, w.Boot, time.Now())
		return w
	case s.cards != nil && s.cards.Busy(slot):
		return &power.Work{What: "its card is about to be written", Remedy: "`hatchery status --watch` shows it"}
	}
	return nil
}

// operationWork is what an operation is at with a slot.
func operationWork(v *enrol.OperationView) *power.Work {
	by, verb := "", v.Kind
	if v.By != "" {
		by = " by " + v.By
	}
	if v.Kind == string(operation.Undo) {
		verb = string(operation.Upgrade)
	}
	return &power.Work{
		What:   fmt.Sprintf("the %s %s%s is at work on it since %s (%s)", v.Kind, v.ID, by, v.Since.Local().Format(time.TimeOnly), v.Step),
		Remedy: fmt.Sprintf("`hatchery %s --follow %s` shows it, `hatchery %[1]s --cancel %[2]s` ends it (a root that is begun is written first, or given up when that does not get on for an hour)", verb, v.ID),
	}
}

// cardWork is a card that is being written, by a service that runs for so long. Nobody
// sees to it who would notice that nothing is heard of the node.
func cardWork(v *reimage.View, runs time.Duration) *power.Work {
	return &power.Work{
		What: "its card is written anew: " + v.String(), Remedy: "`hatchery status --watch` shows it, and it ends when the card is whole",
		Boot: writesBoot(v, runs), Silent: min(time.Duration(min(v.SilentS, int64(runs/time.Second)))*time.Second, runs),
	}
}

// booting is since when slots' nodes say that they write their cards' boot partitions.
type booting struct {
	mu    sync.Mutex
	slots map[int]begun
}

// begun is since when a card is at something, by the name of its writing.
type begun struct {
	card string
	at   time.Time
}

// may says whether a slot's node may be writing its card's boot partition, as it says: who
// says so for ever would have its power for ever.
func (b *booting) may(slot int, card string, says bool, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, is := b.slots[slot]
	switch {
	case !says:
		delete(b.slots, slot)
	case !is || was.card != card:
		if b.slots == nil {
			b.slots = map[int]begun{}
		}
		b.slots[slot] = begun{card, now}
	default:
		return now.Sub(was.at) < power.BootLongest
	}
	return says
}

// writesBoot says that a node writes its card's boot partition, or may: how far it is,
// a service that was started anew does not know before it is told. One that was started over
// its link since is at its beginning.
func writesBoot(v *reimage.View, runs time.Duration) bool {
	return v.Phase == reimage.Writing && !v.Rescued && (v.Progress.State == wire.Booting || v.Progress.State == "" && runs < unheard)
}
