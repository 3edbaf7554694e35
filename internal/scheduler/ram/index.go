package ram

import (
	"slices"
	"sort"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// index maps ids to slots in id order. It is a sorted list of sorted runs: a run
// that is full is split, one that is empty dropped. With runs of up to 256 a million
// ids make some six thousand runs, so that finding is two short binary searches
// and inserting moves a kilobyte or two.
type index struct {
	runs []*run // none is empty
}

// runMax is the largest number of ids in a run.
const runMax = 256

type run struct {
	ids   []envelope.ID
	slots []uint32
}

// find returns the run that holds id or into which it belongs, and the place in it.
func (x *index) find(id envelope.ID) (r, i int, ok bool) {
	// The last run whose first id is not above id.
	r = sort.Search(len(x.runs), func(k int) bool { return x.runs[k].ids[0] > id })
	if r > 0 {
		r--
	}
	if r == len(x.runs) {
		return r, 0, false
	}
	i, ok = slices.BinarySearch(x.runs[r].ids, id)
	return r, i, ok
}

func (x *index) get(id envelope.ID) (uint32, bool) {
	r, i, ok := x.find(id)
	if !ok {
		return 0, false
	}
	return x.runs[r].slots[i], true
}

// put adds an id that is not present.
func (x *index) put(id envelope.ID, slot uint32) {
	r, i, _ := x.find(id)
	if r == len(x.runs) {
		x.runs = append(x.runs, &run{})
	}
	u := x.runs[r]
	u.ids = slices.Insert(u.ids, i, id)
	u.slots = slices.Insert(u.slots, i, slot)
	if len(u.ids) < runMax {
		return
	}
	// Ids that come in rising order fill runs to the brim, others half.
	cut := runMax / 2
	if r == len(x.runs)-1 && i == len(u.ids)-1 {
		cut = runMax * 15 / 16
	}
	v := &run{ids: slices.Clone(u.ids[cut:]), slots: slices.Clone(u.slots[cut:])}
	u.ids, u.slots = slices.Clip(u.ids[:cut]), slices.Clip(u.slots[:cut])
	x.runs = slices.Insert(x.runs, r+1, v)
}

func (x *index) remove(id envelope.ID) {
	r, i, ok := x.find(id)
	if !ok {
		return
	}
	u := x.runs[r]
	u.ids = slices.Delete(u.ids, i, i+1)
	u.slots = slices.Delete(u.slots, i, i+1)
	if len(u.ids) == 0 {
		x.runs = slices.Delete(x.runs, r, r+1)
	}
}

// each calls f for the ids from from on, in order, until it returns false.
func (x *index) each(from envelope.ID, f func(envelope.ID, uint32) bool) {
	r, i, _ := x.find(from)
	for ; r < len(x.runs); r++ {
		u := x.runs[r]
		for ; i < len(u.ids); i++ {
			if !f(u.ids[i], u.slots[i]) {
				return
			}
		}
		i = 0
	}
}
