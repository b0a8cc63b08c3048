package loadtest

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// progress prints what goes on: one line rewritten in place on a terminal,
// plain lines elsewhere.
type progress struct {
	mu   sync.Mutex
	w    io.Writer
	tty  bool
	last string
	open bool // a rewritten line is on the screen
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil {
			p.tty = st.Mode()&os.ModeCharDevice != 0
		}
	}
	return p
}

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

// show prints a line that the next one replaces; without a terminal nothing.
func (p *progress) show(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := fmt.Sprintf(format, args...)
	if !p.tty || s == p.last {
		return
	}
	p.last, p.open = s, true
	_, _ = fmt.Fprint(p.w, "\r\x1b[K"+s)
}

// bar is part of whole, ten characters wide.
func bar(part, whole int) string {
	n := 10
	if whole > 0 {
		n = min(10*part/whole, 10)
	}
	return strings.Repeat("█", n) + strings.Repeat("░", 10-n)
}

func (w Wave) String() string {
	dir := "to"
	if w.Back {
		dir = "back"
	}
	return fmt.Sprintf("%-4s %3d %% %s %4d/%-4d refused %-3d freeze p50 %.1f p99 %.1f max %.1f ms",
		dir, w.Percent, bar(w.Moved+w.Refused, w.Calls), w.Moved, w.Calls, w.Refused, w.FreezeMS.P50, w.FreezeMS.P99, w.FreezeMS.Max)
}

func byRelease(m map[string]int) string {
	var b strings.Builder
	for i, k := range sortedKeys(m) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s: %d", k, m[k])
	}
	return b.String()
}
