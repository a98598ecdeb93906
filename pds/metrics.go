package pds

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	accounts prometheus.Counter
	sessions prometheus.Counter
	commits  prometheus.Counter
	reports  prometheus.Counter
	mails    *prometheus.CounterVec // by what they are about and what came of them
	apps     *prometheus.CounterVec // what apps asked of the authorization server and what came of it
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pds", Name: name, Help: help})
	}
	m := &metrics{
		accounts: counter("accounts_created_total", "Accounts created."),
		sessions: counter("sessions_created_total", "Sessions opened with a password."),
		commits:  counter("commits_total", "Commits written to repositories."),
		reports:  counter("reports_total", "Reports kept for the operators."),
		mails: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pds", Name: "mails_total", Help: "Mails, by what they are about and what came of them."},
			[]string{"about", "outcome"}),
		apps: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pds", Name: "oauth_requests_total", Help: "Requests of apps to the authorization server, by what they ask and what came of them."},
			[]string{"path", "outcome"}),
	}
	for _, c := range []prometheus.Collector{m.accounts, m.sessions, m.commits, m.reports, m.mails, m.apps} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
