package relay

import (
	"container/list"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// taskKey names a task: recipients of one message that get the same reverse-path.
type taskKey struct {
	msg    envelope.MsgID
	sender smtp.Path // as sent
}

// task is a message within a relay.
type task struct {
	taskKey
	waiting []*Attempt
	running int // transactions
	queued  bool
}

// line is the tasks of one sender that wait.
type line struct {
	sender smtp.Path
	tasks  list.List     // *task
	turn   *list.Element // in tasks.ring
}

// tasks are the messages of a relay: those that wait in lines, and those that are in
// transactions. Senders take turns, and the messages of a sender.
type tasks struct {
	all     map[taskKey]*task
	lines   map[smtp.Path]*line
	ring    list.List // *line
	ready   int       // tasks with waiting recipients
	waiting int       // recipients
}

func newTasks() tasks {
	return tasks{all: map[taskKey]*task{}, lines: map[smtp.Path]*line{}}
}

// add puts an attempt in its task, behind the others or in front of them.
func (q *tasks) add(k taskKey, a *Attempt, front bool) {
	t := q.all[k]
	if t == nil {
		t = &task{taskKey: k}
		q.all[k] = t
	}
	t.waiting = append(t.waiting, a)
	q.waiting++
	if !t.queued {
		q.queue(t, front)
	}
}

// queue gives a task its place.
func (q *tasks) queue(t *task, front bool) {
	t.queued = true
	q.ready++
	l := q.lines[t.sender]
	if l == nil {
		l = &line{sender: t.sender}
		q.lines[t.sender] = l
	}
	if front {
		l.tasks.PushFront(t)
	} else {
		l.tasks.PushBack(t)
	}
	switch {
	case l.turn == nil && front:
		l.turn = q.ring.PushFront(l)
	case l.turn == nil:
		l.turn = q.ring.PushBack(l)
	case front:
		q.ring.MoveToFront(l.turn)
	}
}

// next takes up to max recipients of the task whose turn it is, of up to domains
// domains; zero means any number of domains. It returns nil when nothing waits.
func (q *tasks) next(max, domains int) (*task, []*Attempt) {
	front := q.ring.Front()
	if front == nil {
		return nil, nil
	}
	l := front.Value.(*line)
	first := l.tasks.Front()
	t := first.Value.(*task)
	taken := t.take(max, domains)
	q.waiting -= len(taken)
	t.running++
	if len(t.waiting) == 0 {
		l.tasks.Remove(first)
		t.queued = false
		q.ready--
	} else {
		l.tasks.MoveToBack(first)
	}
	if l.tasks.Len() == 0 {
		q.ring.Remove(front)
		delete(q.lines, l.sender)
	} else {
		q.ring.MoveToBack(front)
	}
	return t, taken
}

// take removes recipients from a task.
func (t *task) take(max, domains int) []*Attempt {
	if domains <= 0 {
		n := min(max, len(t.waiting))
		taken := t.waiting[:n:n]
		t.waiting = t.waiting[n:]
		return taken
	}
	var taken, left []*Attempt
	seen := make(map[string]bool, domains)
	for _, a := range t.waiting {
		d := strings.ToLower(a.Envelope.Dest.Domain)
		if len(taken) == max || !seen[d] && len(seen) == domains {
			left = append(left, a)
			continue
		}
		seen[d] = true
		taken = append(taken, a)
	}
	t.waiting = left
	return taken
}

// done ends a transaction of a task. It tells whether the message is gone.
func (q *tasks) done(t *task) bool {
	t.running--
	return q.drop(t)
}

// drop forgets a task that has nothing left to do.
func (q *tasks) drop(t *task) bool {
	if t.running > 0 || t.queued {
		return false
	}
	delete(q.all, t.taskKey)
	return true
}

// remove takes out the waiting attempts that which accepts; nil accepts all.
func (q *tasks) remove(which func(*Attempt) bool) []*Attempt {
	var out []*Attempt
	for turn := q.ring.Front(); turn != nil; {
		l := turn.Value.(*line)
		turn = turn.Next()
		for e := l.tasks.Front(); e != nil; {
			t := e.Value.(*task)
			next := e.Next()
			var left []*Attempt
			for _, a := range t.waiting {
				if which == nil || which(a) {
					out = append(out, a)
				} else {
					left = append(left, a)
				}
			}
			t.waiting = left
			if len(left) == 0 {
				l.tasks.Remove(e)
				t.queued = false
				q.ready--
				q.drop(t)
			}
			e = next
		}
		if l.tasks.Len() == 0 {
			q.ring.Remove(l.turn)
			delete(q.lines, l.sender)
		}
	}
	q.waiting -= len(out)
	return out
}
