// Package separate runs a whole pilot city in the ways in which one may be deployed: its services in processes of their own, each on a
// database of its own under a role of its own, with part of the city on a second PDS or not. Its tests have the build tag separate, so
// that `make test` does not run them; `make separate` does.
package separate
