// What this browser keeps beside the database. Where storage is blocked, or full, the page's memory stands in for it.

class Kept {
  #storage = null;
  #memory = new Map(); // what the storage did not take

  constructor(open) {
    try {
      this.#storage = open(); // throws where the reader has blocked it
    } catch {
      // The memory serves this visit.
    }
  }

  get(key) {
    return this.#memory.get(key) ?? this.#storage?.getItem(key) ?? null;
  }

  set(key, value) {
    this.remove(key);
    try {
      this.#storage.setItem(key, value);
    } catch {
      this.#memory.set(key, value);
    }
  }

  remove(key) {
    this.#memory.delete(key);
    this.#storage?.removeItem(key);
  }

  keys() {
    return Object.keys(this.#storage ?? {});
  }
}

/** Of every tab, and stays. */
export const local = new Kept(() => localStorage);
/** Of this tab, until it is closed. */
export const session = new Kept(() => sessionStorage);
