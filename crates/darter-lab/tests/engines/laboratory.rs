//! The laboratory itself, without Darter: that its witnesses tell the truth.

use anyhow::{Result, ensure};
use darter_core::{Clock, Rate, SystemClock};
use darter_lab::engine::{Containerd, PULL_TIMEOUT, Route, Skopeo, ensure_copied};
use darter_lab::registry::NAME;
use darter_lab::{Link, Registry};

use crate::world::{World, ensure_held, sizes};

pub(crate) fn a_shaped_cable_is_no_faster_than_its_rate(world: &World) -> Result<()> {
    let rate: Rate = "200mbit".parse()?;
    let (origin, reader) = (world.network.host("registry")?, world.network.host("reader")?);
    origin.shape(Link { up: Some(rate), down: None })?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let layer = &world.shelf.tools.layers[0];
    let url = format!("{}/v2/{}/blobs/{}", registry.url(), world.shelf.tools.repository(), layer.digest);
    let clock = SystemClock::start();
    let start = clock.now();
    reader.run(
        "curl",
        reader.command("curl").args(["--silent", "--fail", "--output", "/dev/null", &url]),
        PULL_TIMEOUT,
    )?;
    let seconds = clock.now().since(start).as_secs_f64();
    ensure!(reader.traffic()?.received >= layer.size, "the cable's counter saw less than was read");
    let reached = layer.size as f64 / seconds;
    ensure!(reached <= rate.bytes_per_second() as f64 * 1.1, "{reached:.0} bytes/s through a cable of {rate}");
    Ok(())
}

pub(crate) fn pulls_without_darter_read_the_registry_each(world: &World) -> Result<()> {
    let [origin, first, second] = world.hosts(["registry", "first", "second"], "2gbit")?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let route = Route::direct(registry.authority());
    let image = &world.shelf.tools;
    let containerd = Containerd::start(&first, &route)?;
    let skopeo = Skopeo::configure(&second, &route)?;
    containerd.fetch(&image.reference(NAME))?.finish(PULL_TIMEOUT)?;
    ensure_held(&containerd, image)?;
    registry.ensure_read_once(sizes(image))?;
    registry.access_log()?.ensure_read_by_one(sizes(image))?;
    skopeo.copy(&image.reference(NAME), "copy")?.finish(PULL_TIMEOUT)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    ensure!(registry.access_log()?.ensure_read_once(sizes(image)).is_err(), "two plain pulls passed for one");
    Ok(())
}
