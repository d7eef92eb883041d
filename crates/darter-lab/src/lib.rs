//! Hosts in network namespaces: end-to-end tests with real container engines.
