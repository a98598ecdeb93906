package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// A city sends mail alike whether its services are apart or in one process.
func TestChildrenAreToldWhatMayHoldAPasswordByTheirEnvironment(t *testing.T) {
	t.Parallel()
	s := &stack{
		ground: ground{smtpURL: "smtps://user:secret@mail.example"},
		homes: map[string]settled{
			schemaPDS: {home: home{service: schemaPDS, dsn: "postgres:///pds"}}, schemaLedger: {home: home{service: schemaLedger, dsn: "postgres:///ledger"}},
		},
	}
	assert.Equal(t, []string{"CITYSYNC_DATABASE_URL=postgres:///pds", "CITYSYNC_SMTP_URL=smtps://user:secret@mail.example"}, s.childSettings(schemaPDS))
	assert.Equal(t, []string{"CITYSYNC_DATABASE_URL=postgres:///ledger"}, s.childSettings(schemaLedger))
}
