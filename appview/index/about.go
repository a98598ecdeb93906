package index

import "city-sync.org/citysync/ledger/entry"

// about is what an entry concerns beside its organization: nil where it does not say.
type about struct {
	task    any // first uri of a task
	refers  any // seq of the entry that it ends or reverses
	what    any // is bound, paused, resumed, reversed or has a reason to expire
	subject any // of a binding the key, of a pause the uri; "" where the whole city or organization is meant
}

func aboutOf(e *entry.Entry) about {
	switch {
	case e.Reserve != nil:
		return about{task: e.Reserve.First}
	case e.Release != nil:
		return about{task: e.Release.First}
	case e.Claim != nil:
		return about{task: e.Claim.First}
	case e.Unclaim != nil:
		return about{task: e.Unclaim.First}
	case e.Mint != nil:
		return about{task: e.Mint.First}
	case e.Hold != nil:
		return about{subject: e.Hold.Offering.URI}
	case e.Capture != nil:
		return about{refers: e.Capture.Hold}
	case e.Void != nil:
		return about{refers: e.Void.Hold}
	case e.Reverse != nil:
		return about{refers: e.Reverse.Of, what: string(e.Reverse.What)}
	case e.Bind != nil:
		return about{what: e.Bind.What, subject: e.Bind.Key}
	case e.Pause != nil:
		return about{what: e.Pause.What, subject: e.Pause.Subject}
	case e.Resume != nil:
		return about{what: e.Resume.What, subject: e.Resume.Subject}
	case e.Expire != nil:
		return about{what: e.Expire.Reason}
	}
	return about{}
}
