package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

func openTest(t *testing.T, conf string) *remote.Table {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	tab, err := remote.Open("users", path, open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab
}

func TestQuestions(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer secret" || q.Table != "users" {
			t.Errorf("question %+v, %v, %v", q, r.Header, err)
		}
		answers := map[string]string{
			"root": `{"value": "alice"}`, "list": `{"found": true, "values": ["a", "b"]}`, "yes": `{"found": true}`, "no": `{"found": false}`,
			"empty": `{}`, "text": `hello`, "break": `{"value": "a\nb"}`, "": `{"values": ["192.0.2.1", "192.0.2.2"]}`,
			"big": `{"value": "` + strings.Repeat("x", maxReply) + `"}`,
		}
		switch a, ok := answers[q.Key]; {
		case ok:
			_, _ = w.Write([]byte(a))
		case q.Key == "down":
			w.WriteHeader(http.StatusServiceUnavailable)
		case q.Key == "moved":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	tab := openTest(t, "url "+server.URL+"\nbearer secret\nservices alias, domain source\n")
	for _, tt := range []struct {
		s               table.Service
		key, want, fail string
	}{
		{table.Alias, "root", "alice", ""}, {table.Alias, "list", "a, b", ""}, {table.Domain, "list", "a", ""}, {table.Domain, "yes", "yes", ""},
		{table.Alias, "no", "", "not found"}, {table.Alias, "nosuch", "", "not found"}, {table.Alias, "empty", "", "neither"},
		{table.Alias, "text", "", "understood"}, {table.Alias, "down", "", "503"}, {table.Alias, "moved", "", "302"}, {table.Alias, "big", "", "more than"},
	} {
		got, err := tab.Lookup(t.Context(), tt.s, tt.key)
		if got != tt.want || (err != nil) != (tt.fail != "") || err != nil && !strings.Contains(err.Error(), tt.fail) {
			t.Errorf("Lookup(%s, %q) = %q, %v, want %q %q", tt.s, tt.key, got, err, tt.want, tt.fail)
		}
		if err != nil && errors.Is(err, table.ErrNotFound) != (tt.fail == "not found") {
			t.Errorf("Lookup(%s, %q): %v", tt.s, tt.key, err)
		}
	}
	for _, want := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.1"} {
		if got, err := tab.Fetch(t.Context(), table.Source); err != nil || got != want {
			t.Errorf("Fetch = %q, %v, want %q", got, err, want)
		}
	}
}

// A question that the server is slow to answer is no reason to take it for away.
func TestSlowQuestionHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		if q.Key == "slow" {
			<-r.Context().Done()
			return
		}
		_, _ = w.Write([]byte(`{"value": "alice"}`))
	}))
	t.Cleanup(server.Close)
	tab := openTest(t, "url "+server.URL+"\nservices alias\ntimeout 500ms\n")
	for range 3 {
		if v, err := tab.Lookup(t.Context(), table.Alias, "slow"); err == nil || errors.Is(err, table.ErrNotFound) {
			t.Errorf("slow: %q, %v", v, err)
		}
		if v, err := tab.Lookup(t.Context(), table.Alias, "root"); v != "alice" {
			t.Errorf("root: %q, %v", v, err)
		}
	}
}

func TestCertificateIsChecked(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"value": "x"}`)) }))
	t.Cleanup(server.Close)
	tab := openTest(t, "url "+server.URL+"\nservices alias\n")
	if _, err := tab.Lookup(t.Context(), table.Alias, "a"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Lookup over an unknown authority: %v", err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"services alias\n": "url is missing", "url ftp://x\nservices alias\n": "none of https", "url https://x\n": "no service",
		"url https://x\nservices aliases\n": "does not exist", "url https://x\nservices alias\nca_file /nowhere\n": "no such file",
	} {
		path := filepath.Join(t.TempDir(), "conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := remote.Open("t", path, open); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
