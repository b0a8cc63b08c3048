package handoff

import "errors"

// mEdge is a transition, for the way back.
type mEdge struct{ from, to int32 }

// mStep names a transition.
type mStep struct {
	what string
	who  int
}

func (s mStep) String() string { return []string{"A", "B", "C", "the edge"}[s.who] + " " + s.what }

var errTooMany = errors.New("too many states")

// explore returns the number of states, and the violation found with its trace.
func (m *mModel) explore() (states int, violation string, trace []string, err error) {
	start := mState{edge: -1}
	start.kv = mCall{rev: 1, ep: 1, n: 1, ver: 1}
	start.w[0] = mWorker{st: mActive, mCall: start.kv}
	index := map[mState]int32{start: 0}
	all, from, how := []mState{start}, []int32{-1}, []mStep{{}}
	var edges []mEdge
	path := func(at int32) (p []string) {
		for ; at > 0; at = from[at] {
			p = append([]string{how[at].String()}, p...)
		}
		return p
	}
	for at := int32(0); int(at) < len(all); at++ {
		var last string
		m.next(all[at], func(t mState, what string, who int) {
			if m.bad != "" && last == "" {
				last = mStep{what, who}.String()
			}
			m.canon(&t)
			id, known := index[t]
			if !known {
				id = int32(len(all))
				index[t] = id
				all, from, how = append(all, t), append(from, at), append(how, mStep{what, who})
			}
			if !mForced[what] {
				edges = append(edges, mEdge{at, id})
			}
		})
		if m.bad != "" {
			return len(all), m.bad, append(path(at), last), nil
		}
		if len(all) > 12_000_000 {
			return len(all), "", nil, errTooMany
		}
	}
	if stuck := cannotEnd(all, edges); stuck >= 0 {
		return len(all), "the call can never end", path(stuck), nil
	}
	return len(all), "", nil, nil
}

// mForced are the steps that no one may count on when the call is to end.
var mForced = map[string]bool{
	"crashes": true, "is withdrawn": true, "dies of the migration": true, mSuspects: true,
	mOffers[0]: true, mOffers[1]: true, mOffers[2]: true,
}

const mSuspects = "suspects the owner and reads the record"

// cannotEnd returns a state from which neither the tombstone nor the caretaker
// can be reached, or -1.
func cannotEnd(all []mState, edges []mEdge) int32 {
	first := make([]int32, len(all)+1)
	for _, e := range edges {
		first[e.to+1]++
	}
	for i := range all {
		first[i+1] += first[i]
	}
	back, at := make([]int32, len(edges)), append([]int32(nil), first...)
	for _, e := range edges {
		back[at[e.to]] = e.from
		at[e.to]++
	}
	can := make([]bool, len(all))
	var todo []int32
	for i, s := range all {
		if s.kv.tomb || s.kv.aside {
			can[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, p := range back[first[v]:first[v+1]] {
			if !can[p] {
				can[p] = true
				todo = append(todo, p)
			}
		}
	}
	for i, ok := range can {
		if !ok {
			return int32(i)
		}
	}
	return -1
}
