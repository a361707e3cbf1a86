// Command controller stands in for meshpdb-controller in the sandbox's own tests: it takes the same flags, is ready at
// once, and its webhook refuses what is named "refused".
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
	"path/filepath"
)

type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
}

type response struct {
	UID     string            `json:"uid"`
	Allowed bool              `json:"allowed"`
	Status  map[string]string `json:"status,omitempty"`
}

func main() {
	paths := map[string]*string{}
	for _, name := range []string{"kubeconfig", "clustermesh-config", "kvstore-config", "webhook-cert-dir"} {
		paths[name] = flag.String(name, "", "")
	}
	webhook := flag.String("webhook-bind-address", "", "")
	flag.Bool("metrics-secure", true, "")
	metrics := flag.String("metrics-bind-address", "", "")
	health := flag.String("health-probe-bind-address", "", "")
	cluster := flag.String("cluster-name", "", "")
	flag.String("namespace", "", "")
	extra := flag.String("extra", "", "")
	flag.Parse()
	log.Printf("%s of %s, extra %q", os.Getenv("POD_NAME"), *cluster, *extra)
	for name, path := range paths {
		if _, err := os.Stat(*path); err != nil {
			log.Fatalf("flag %s: %v", name, err)
		}
	}
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	go func() { log.Fatal(http.ListenAndServe(*metrics, ok)) }()
	go func() { log.Fatal(http.ListenAndServe(*health, ok)) }()
	dir := *paths["webhook-cert-dir"]
	log.Fatal(http.ListenAndServeTLS(*webhook, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"),
		http.HandlerFunc(answer)))
}

func answer(w http.ResponseWriter, r *http.Request) {
	var in review
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Request == nil || r.URL.Path != "/judge" {
		http.Error(w, "not a review", http.StatusBadRequest)
		return
	}
	in.Response = &response{UID: in.Request.UID, Allowed: in.Request.Name != "refused"}
	in.Response.Status = map[string]string{"message": "refused by " + os.Getenv("POD_NAME")}
	in.Request = nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(in)
}
