const std = @import("std");

const modulus = 30011;

pub fn main() void {
    var met: [modulus]usize = undefined; // the last start that came by
    @memset(&met, modulus);
    var total: u64 = 0;
    for (0..modulus) |start| {
        var x = start;
        while (met[x] != start) : (x = (x * x + 1) % modulus) {
            met[x] = start;
            total += 1;
        }
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
